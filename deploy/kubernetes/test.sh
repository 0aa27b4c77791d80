#!/usr/bin/env bash
# Validates the manifests against the Kubernetes schemas and against each other with check.py,
# and with kubernetes-validate from PyPI in a virtual environment (target/kubernetes). If
# kubectl is installed, also validates the output of kustomize. Needs no cluster. The
# configuration in configmap.yaml is tested by shipped_configurations.rs of leastconn-lb.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

VENV=target/kubernetes
if ! "$VENV/bin/python" -c 'import kubernetes_validate, yaml' 2>/dev/null; then
  echo '== installing kubernetes-validate, once'
  rm -rf "$VENV"
  python3 -m venv "$VENV" 2>/dev/null ||
    { echo 'kubernetes-test: python3 with venv is missing (Debian, Ubuntu: apt-get install python3-venv)' >&2 && exit 1; }
  "$VENV/bin/pip" install --quiet 'kubernetes-validate==1.37.*'
fi
"$VENV/bin/python" deploy/kubernetes/check.py deploy/kubernetes
if command -v kubectl >/dev/null; then
  kubectl kustomize deploy/kubernetes >target/kubernetes/built.yaml
  "$VENV/bin/python" deploy/kubernetes/check.py --built target/kubernetes/built.yaml
else
  echo 'kubectl is not installed; the kustomization is not checked'
fi
