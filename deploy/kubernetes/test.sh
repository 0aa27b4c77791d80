#!/usr/bin/env bash
# Validates the manifests against the Kubernetes schemas and against each other, with check.py and
# with kubernetes-validate from PyPI in a virtual environment (target/kubernetes). Does the same
# with the rendered Helm chart and, if kubectl is installed, with the output of kustomize. Needs no
# cluster. The configuration in leastconn.toml is tested by shipped_configurations.rs of
# leastconn-lb.
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
LIBRARY=target/kubernetes/helm/helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so
if ! command -v helm >/dev/null && [ ! -e "$LIBRARY" ]; then
  # The package needs Python 3.12, but the library in it does not.
  echo '== downloading the Helm library, once (120 MB)'
  "$VENV/bin/pip" download --quiet --no-deps --only-binary :all: --python-version 3.12 --dest target/kubernetes 'helm-sdkpy==0.1.*'
  "$VENV/bin/python" -m zipfile -e target/kubernetes/helm_sdkpy-*.whl target/kubernetes/helm
fi
"$VENV/bin/python" deploy/kubernetes/check.py deploy/kubernetes
if command -v kubectl >/dev/null; then
  kubectl kustomize deploy/kubernetes >target/kubernetes/built.yaml
  "$VENV/bin/python" deploy/kubernetes/check.py --built target/kubernetes/built.yaml
else
  echo 'kubectl is not installed; the kustomization is not checked'
fi
for values in '' deploy/helm/all-features.yaml; do
  # shellcheck disable=SC2086 # without values there is no argument
  "$VENV/bin/python" deploy/helm/render.py "$LIBRARY" $values >target/kubernetes/chart.yaml
  "$VENV/bin/python" deploy/kubernetes/check.py --built target/kubernetes/chart.yaml
done
"$VENV/bin/python" - target/kubernetes/chart.yaml <<'END'
import sys
import yaml
rules = next(d for d in yaml.safe_load_all(open(sys.argv[1])) if d and d["kind"] == "PrometheusRule")
yaml.safe_dump(rules["spec"], open("target/kubernetes/rules.yml", "w"))
END
if command -v promtool >/dev/null; then promtool check rules target/kubernetes/rules.yml; fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
grep -qx "appVersion: \"$version\"" deploy/helm/leastconn/Chart.yaml || { echo "kubernetes-test: appVersion of the chart is not $version" >&2; exit 1; }
