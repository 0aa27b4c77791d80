#!/usr/bin/env python3
"""Validates the manifests against the strict Kubernetes schemas and against each other: names,
ports, selectors, times, and the restricted level of pod security.

    check.py DIRECTORY       with its kustomization.yaml and extra/
    check.py --built FILE    the output of kustomize, or of the Helm chart
"""

import pathlib
import re
import sys

import kubernetes_validate
import yaml

# From the first version with preStop.sleep enabled by default to the newest schema.
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# Kinds that operators define. Kubernetes has no schema for them.
OPERATORS = {"ServiceMonitor", "Certificate", "PrometheusRule"}

problems = []


def expect(holds, what):
    if not holds:
        problems.append(what)


def seconds(text):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(n) * units[u] for n, u in re.findall(r"(\d+)(ms|s|m|h)", text))


def setting(toml, key):
    found = re.search(rf'^{key} = "([^"]*)"', toml, re.MULTILINE)
    expect(found, f"the configuration does not set {key}")
    return found.group(1) if found else "0s"


def schemas(documents):
    for name, document in documents:
        if document["kind"] in OPERATORS | {"Kustomization"}:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as error:  # the package raises several types
                message = (str(error) or type(error).__name__).splitlines()[0]
                problems.append(f"{name}, Kubernetes {version}: {message}")


def restricted(pod, container):
    """Checks a pod against the restricted level."""
    of_pod, of_container = pod["securityContext"], container["securityContext"]
    expect(of_pod["runAsNonRoot"] is True and of_pod["runAsUser"] != 0, "the pod may run as root")
    expect(of_pod["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile")
    expect(of_container["allowPrivilegeEscalation"] is False, "allowPrivilegeEscalation is not false")
    expect(of_container["capabilities"]["drop"] == ["ALL"], "not all capabilities are dropped")
    expect("add" not in of_container["capabilities"], "capabilities are added")
    expect(of_container["readOnlyRootFilesystem"] is True, "the root file system is writable")
    allowed = {"configMap", "secret", "projected", "emptyDir"}
    for volume in pod["volumes"]:
        expect(set(volume) - {"name"} <= allowed, f"volume {volume['name']} has a kind that the restricted level forbids")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        expect(not pod.get(key), f"{key} is set")


def together(documents):
    by_kind = {}
    for _, document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
    deployment = by_kind["Deployment"][0]
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    labels = spec["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    config_map = next(c for c in by_kind["ConfigMap"] if "leastconn.toml" in c["data"])
    toml = config_map["data"]["leastconn.toml"]

    restricted(pod, container)
    # The chart is installed into a namespace that exists.
    for namespace in by_kind.get("Namespace", []):
        expect(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted", "the namespace does not enforce the restricted level")
    for name, document in documents:
        if document["kind"] not in {"Namespace", "Kustomization"}:
            expect(document["metadata"].get("namespace") == "leastconn", f"{name} is in another namespace")
    for job in by_kind.get("CronJob", []):
        of_job = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        restricted(of_job, of_job["containers"][0])

    # Every pod selector matches the Deployment's labels.
    selectors = [("Deployment", spec["selector"]["matchLabels"])]
    selectors += [("Service", s["spec"]["selector"]) for s in by_kind["Service"]]
    selectors += [("PodDisruptionBudget", p["spec"]["selector"]["matchLabels"]) for p in by_kind["PodDisruptionBudget"]]
    selectors += [("NetworkPolicy", n["spec"]["podSelector"]["matchLabels"]) for n in by_kind["NetworkPolicy"]]
    selectors += [("spread", t["labelSelector"]["matchLabels"]) for t in pod["topologySpreadConstraints"]]
    for kind, selector in selectors:
        expect(selector and selector.items() <= labels.items(), f"{kind} selects {selector}, but pods have the labels {labels}")
    for monitor in by_kind.get("ServiceMonitor", []):
        selector = monitor["spec"]["selector"]["matchLabels"]
        chosen = [s for s in by_kind["Service"] if selector.items() <= s["metadata"]["labels"].items()]
        expect(len(chosen) == 1, f"the ServiceMonitor selects {len(chosen)} services instead of one")
        job = chosen and chosen[0]["metadata"]["labels"].get(monitor["spec"].get("jobLabel"))
        rules = pathlib.Path("deploy/prometheus/leastconn-rules.yml").read_text()
        expect(job and set(re.findall(r'job="([^"]*)"', rules)) == {job}, f"the ServiceMonitor's job is {job}, but the alerts expect another job")
        for endpoint in monitor["spec"]["endpoints"]:
            expect(chosen and endpoint["port"] in [p["name"] for p in chosen[0]["spec"]["ports"]], "the Service has no port with the name in the ServiceMonitor")

    # Named ports are ports of the container, and the configuration binds them.
    named = [p["targetPort"] for s in by_kind["Service"] for p in s["spec"]["ports"]]
    named += [p["port"] for n in by_kind["NetworkPolicy"] for rule in n["spec"]["ingress"] for p in rule["ports"]]
    named += [container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    for port in named:
        expect(port in ports, f"the container has no port named {port}")
    bound = {int(port) for port in re.findall(r'^bind = "[^"]*:(\d+)"', toml, re.MULTILINE)}
    expect(bound == set(ports.values()), f"the configuration binds {bound}, the container has {ports}")
    client = next(s for s in by_kind["Service"] if s["spec"].get("type") == "LoadBalancer")
    expect([p["targetPort"] for p in client["spec"]["ports"]] == ["tls"], "the Service for clients exposes more than the listener")

    # The grace period covers preStop, drain and exit.
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drains = seconds(setting(toml, "drain_timeout"))
    grace = pod["terminationGracePeriodSeconds"]
    expect(waits >= 5, "preStop is too short: nodes may still send connections to the terminating pod")
    expect(grace >= waits + drains + 5, f"terminationGracePeriodSeconds is {grace}, too short for preStop ({waits} s), drain_timeout ({drains:.0f} s) and 5 s reserve")
    expect(container["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness is not /readyz")
    expect(container["livenessProbe"]["httpGet"]["path"] == "/healthz", "liveness is not /healthz")

    # The files of the configuration are mounted, and the group can read them.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    expect(set(volumes) == {mount["name"] for mount in mounts.values()}, "volumes and mounts differ")
    expect(volumes["conf"]["configMap"]["name"] == config_map["metadata"]["name"], "the Deployment mounts a ConfigMap other than that of the configuration")
    for mount in mounts.values():
        expect("subPath" not in mount, "files that are mounted by subPath are never updated")
    mounted = {f"/etc/leastconn/conf/{key}" for key in ["leastconn.toml"]}
    sources = volumes["tls"]["projected"]["sources"]
    mounted |= {f"/etc/leastconn/tls/{item['path']}" for s in sources for item in next(iter(s.values()))["items"]}
    wanted = set(re.findall(r'"(/etc/[^"]*)"', toml)) | {container["args"][-1]}
    expect(wanted == mounted, f"the configuration names {sorted(wanted)}, but the mounted files are {sorted(mounted)}")
    expect(volumes["tls"]["projected"]["defaultMode"] == 0o440, "users outside the group can read the keys")
    expect("fsGroup" in pod["securityContext"], "fsGroup is missing, so the process cannot read the keys")

    # The directory of the admin socket is writable, and `ctl` finds the configuration.
    run = mounts.get(str(pathlib.PurePath(setting(toml, "socket")).parent))
    expect(run and "emptyDir" in volumes[run["name"]] and not run.get("readOnly"), "the directory of the admin socket is not writable")
    expect(container["args"][-1] == f"{container['workingDir']}/leastconn.toml", "ctl does not find the configuration")
    for certificate in by_kind.get("Certificate", []):
        expect(certificate["spec"]["secretName"] == sources[0]["secret"]["name"], "cert-manager writes another secret")

    # The disruption budget needs more than one replica.
    for scaler in by_kind.get("HorizontalPodAutoscaler", []):
        expect("replicas" not in spec, "each update of the Deployment would undo the scaling")
        expect(scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"], "the autoscaler scales another Deployment")
        spec["replicas"] = scaler["spec"]["minReplicas"]
    expect(spec["replicas"] > by_kind["PodDisruptionBudget"][0]["spec"]["maxUnavailable"], "the disruption budget allows the eviction of all pods")
    expect(spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, "a rollout removes a pod before its replacement is ready")


def store(fleet, documents):
    """The store of a fleet, which is not part of the kustomization."""
    by_kind = {document["kind"]: document for _, document in fleet}
    template = by_kind["Deployment"]["spec"]["template"]
    pod = template["spec"]
    restricted(pod, pod["containers"][0])
    labels = template["metadata"]["labels"]
    policy = by_kind["NetworkPolicy"]["spec"]
    for selector in (by_kind["Service"]["spec"]["selector"], policy["podSelector"]["matchLabels"]):
        expect(selector.items() <= labels.items(), f"{selector} does not select the store")
    balancer = next(document for _, document in documents if document["kind"] == "Deployment")
    allowed = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    expect(allowed.items() <= balancer["spec"]["template"]["metadata"]["labels"].items(), "the balancers may not connect to the store")
    toml = next(d for _, d in documents if d["kind"] == "ConfigMap")["data"]["leastconn.toml"]
    service = by_kind["Service"]
    address = f'{service["metadata"]["name"]}:{service["spec"]["ports"][0]["port"]}'
    expect(f'redis://{address}"' in toml, f"the configuration does not name the store {address}")


def read(path):
    return [(path.name, document) for document in yaml.safe_load_all(path.read_text()) if document]


def main():
    if sys.argv[1] == "--built":
        documents = read(pathlib.Path(sys.argv[2]))
    else:
        directory = pathlib.Path(sys.argv[1])
        kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
        version = re.search(r'^version = "(.*)"', pathlib.Path("Cargo.toml").read_text(), re.MULTILINE).group(1)
        tag = kustomization["images"][0]["newTag"]
        expect(tag == version, f"the image tag is {tag}, but the version in Cargo.toml is {version}")
        listed = kustomization["resources"]
        files = {path.name for path in directory.glob("*.yaml")} - {"kustomization.yaml"}
        expect(set(listed) == files, f"the kustomization lists {sorted(listed)}, but the files are {sorted(files)}")
        paths = [directory / name for name in listed] + sorted((directory / "extra").glob("*.yaml"))
        documents = [entry for path in paths for entry in read(path)]
        for generated in kustomization["configMapGenerator"]:
            data = {name: (directory / name).read_text() for name in generated["files"]}
            metadata = {"name": generated["name"], "namespace": kustomization["namespace"]}
            documents.append(("kustomization.yaml", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))
        fleet = [entry for path in sorted((directory / "fleet").glob("*.yaml")) for entry in read(path)]
        schemas(fleet)
        store(fleet, documents)
    schemas(documents)
    try:
        # extra/headless-service.yaml is an example of a Service in front of the servers.
        together([entry for entry in documents if entry[0] != "headless-service.yaml"])
    except KeyError as missing:
        problems.append(f"{missing} is missing")
    for problem in problems:
        print(f"kubernetes-test: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    checked = sum(document["kind"] not in OPERATORS for _, document in documents)
    print(f"{len(documents)} manifests agree with each other, {checked} with the schemas of Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}")


main()
