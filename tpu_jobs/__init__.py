from tpu_jobs import tpu_environment

tpu_environment.prepare()  # Here, so that it runs before any job imports TensorFlow.
