#!/usr/bin/env bash
# Installs limoe_tf on a TPU VM, into .venv-tpu, and checks the installation.
# A slice of several VMs needs it on each of them:
#
#   gcloud compute tpus tpu-vm ssh NAME --worker=all --command="cd limoe_tf && bash tpu_jobs/setup_tpu_vm.sh"
#
# The order of installation is in the Makefile: tensorflow-text comes last and without what it
# requires, which would overwrite tensorflow-tpu.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make venv-tpu
.venv-tpu/bin/python -m tpu_jobs.doctor
