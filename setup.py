"""The packages, which setup.cfg cannot name: the gin files belong to `tpu_jobs` when installed.

The folder `gin/` must not become a package of that name, which would hide gin-config.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["limoe_tf*", "tpu_jobs*"]), "tpu_jobs.gin"],
    package_dir={"tpu_jobs.gin": "gin"},
    package_data={"tpu_jobs.gin": ["**/*.gin"]},
)
