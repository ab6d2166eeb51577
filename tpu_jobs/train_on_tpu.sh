#!/usr/bin/env bash
# Trains the model of a gin file on the TPU of this VM, with data, checkpoints and results in a bucket.
#
#   BUCKET=gs://my-bucket bash tpu_jobs/train_on_tpu.sh gin/runs/b16.gin [FLAGS OF tpu_jobs.train]
#
# TPU=NAME names a slice of several VMs. The bucket holds train/*.tfrecord and test/*.tfrecord, as
# img2dataset writes them, and vocabulary.model, a SentencePiece model. The same command run
# again resumes from the last checkpoint.
set -euo pipefail
: "${BUCKET:?must be set, such as gs://my-bucket}"
gin_file="${1:?must be a gin file, such as gin/runs/b16.gin}"
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv-tpu/bin/python -m tpu_jobs.train --tpu="${TPU:-local}" \
  --gin_file="$gin_file" --workdir="$BUCKET/runs/$(basename "$gin_file" .gin)" \
  --gin_param="TRAIN_FILES = '$BUCKET/train/*.tfrecord'" \
  --gin_param="TEST_FILES = '$BUCKET/test/*.tfrecord'" \
  --gin_param="VOCABULARY = '$BUCKET/vocabulary.model'" "$@"
