#!/usr/bin/env bash
# LIMoE-B/16 of the paper's scaling study: BUCKET=gs://my-bucket [TPU=NAME] bash tpu_jobs/train_b16.sh
exec bash "$(dirname "${BASH_SOURCE[0]}")/train_on_tpu.sh" gin/runs/b16.gin "$@"
