#!/usr/bin/env bash
# The manifests against the schemas of Kubernetes, and against each other: check.py,
# with kubernetes-validate from PyPI in an environment of its own (target/kubernetes).
# With kubectl, what its kustomize makes of them as well. Needs no cluster; that the
# configuration in them is right is shown by a test of leastconn-lb
# (shipped_configurations.rs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

VENV=target/kubernetes
if ! "$VENV/bin/python" -c 'import kubernetes_validate, yaml' 2>/dev/null; then
  echo '== getting kubernetes-validate, once'
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
  echo 'kubectl is not installed; the kustomization was not built'
fi
