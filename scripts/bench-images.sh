#!/bin/bash
# Makes the two images that `make bench` moves around, without a network and
# the same bytes each time:
#
#   DIR/mixed, DIR/mixed.tar   ten layers, 300 MB of mixed files
#   DIR/small, DIR/small.tar   one layer of 44,597 small files, 450 MB
#
# each as an OCI layout (gzip) and as a docker-archive (plain, as `docker save`
# wrote it before OCI layouts).
#
# usage: bench-images.sh DIR [mixed|small]...
set -euo pipefail
dir=$1
shift
mkdir -p "$dir"
pids=()
for image in "${@:-mixed small}"; do
    for one in $image; do
        [ -e "$dir/$one.tar" ] && continue
        python3 - "$dir" "$one" <<'EOF' &
import gzip, hashlib, io, json, os, random, shutil, sys, tarfile

root, name = sys.argv[1:]
MB = 1 << 20
TIME = 1700000000
rng = random.Random(name)

# Pools that files are cut from: prose, machine-code-like bytes, noise.
words = [bytes(rng.choices(b"etaoinshrdlucmfw", k=rng.randint(2, 10))) for _ in range(4000)]
zipf = [1 / rank for rank in range(1, 4001)]
lines = [b" ".join(rng.choices(words, weights=zipf, k=rng.randint(2, 12))) for _ in range(4000)]
text = b"\n".join(rng.choices(lines, weights=zipf, k=600_000))[: 16 * MB]
chunks = [rng.randbytes(rng.randint(2, 24)) for _ in range(4000)]
code = b"".join(rng.choices(chunks, weights=zipf, k=1_500_000))[: 16 * MB]
noise = rng.randbytes(16 * MB)


def content(size):
    pool = rng.choices((text, code, noise), weights=(12, 5, 1))[0]
    parts = []
    while size > 0:
        part = min(size, 4 * MB)
        start = rng.randrange(len(pool) - part)
        parts.append(pool[start : start + part])
        size -= part
    return b"".join(parts)


def entry(tar, path, data=None):
    info = tarfile.TarInfo(path)
    info.mtime = TIME
    if data is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
    else:
        info.size, info.mode = len(data), 0o644
        tar.addfile(info, io.BytesIO(data))


def mixed(tar, index, total):
    directory, count = f"opt/layer{index}", 0
    entry(tar, "opt")
    entry(tar, directory)
    while total > 0:
        size = rng.choices((rng.randint(100, 8000), rng.randint(8000, 300_000), rng.randint(MB, 12 * MB)), weights=(60, 30, 4))[0]
        size = min(size, total)
        if count % 50 == 0:
            entry(tar, f"{directory}/d{count // 50}")
        entry(tar, f"{directory}/d{count // 50}/file{count}", content(size))
        total -= size
        count += 1


def small(tar, files):
    for number in range(files):
        upper, lower = number // 1600, number // 40
        if number % 1600 == 0:
            entry(tar, f"usr{upper}")
        if number % 40 == 0:
            entry(tar, f"usr{upper}/lib{lower}")
        size = min(int(rng.expovariate(1 / 9500)) + 30, 400_000)
        entry(tar, f"usr{upper}/lib{lower}/file{number}.js", content(size))


layers = []
out = os.path.join(root, name)
shutil.rmtree(out, ignore_errors=True)
os.makedirs(f"{out}/blobs/sha256")


def blob(data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{out}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


descriptors = []
sizes = (90, 60, 40, 30, 25, 20, 15, 10, 6, 4) if name == "mixed" else (0,)
for index, size in enumerate(sizes):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if name == "mixed":
            mixed(tar, index, size * MB)
        else:
            small(tar, 44_597)
    plain = plain.getvalue()
    layers.append(plain)
    packed = gzip.compress(plain, 6, mtime=0)
    descriptors.append(blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip"))

diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
arch = {"aarch64": "arm64", "x86_64": "amd64"}.get(os.uname().machine, os.uname().machine)
config = json.dumps({
    "architecture": arch, "os": "linux", "created": "2024-01-01T00:00:00Z",
    "config": {"Cmd": ["/none"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
}).encode()
manifest = json.dumps({
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": blob(config, "application/vnd.oci.image.config.v1+json"), "layers": descriptors,
}).encode()
descriptor = blob(manifest, "application/vnd.oci.image.manifest.v1+json")
descriptor["annotations"] = {
    "io.containerd.image.name": f"docker.io/library/{name}:latest",
    "org.opencontainers.image.ref.name": "latest",
}
with open(f"{out}/oci-layout", "w") as file:
    file.write('{"imageLayoutVersion":"1.0.0"}')
with open(f"{out}/index.json", "w") as file:
    json.dump({"schemaVersion": 2, "manifests": [descriptor]}, file)

with tarfile.open(f"{root}/{name}.tar.part", "w", format=tarfile.PAX_FORMAT) as tar:
    names = []
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    for diff_id, layer in zip(diff_ids, layers):
        names.append(f"{diff_id[7:]}/layer.tar")
        entry(tar, names[-1], layer)
    entry(tar, config_name, config)
    entry(tar, "manifest.json", json.dumps([{
        "Config": config_name, "RepoTags": [f"{name}:latest"], "Layers": names,
    }]).encode())
os.rename(f"{root}/{name}.tar.part", f"{root}/{name}.tar")
EOF
        pids+=($!)
    done
done
for pid in "${pids[@]}"; do
    wait "$pid"
done
