#!/usr/bin/env bash
# LIMoE-H/14: BUCKET=gs://my-bucket [TPU=NAME] bash tpu_jobs/train_h14.sh
exec bash "$(dirname "${BASH_SOURCE[0]}")/train_on_tpu.sh" gin/runs/h14.gin "$@"
