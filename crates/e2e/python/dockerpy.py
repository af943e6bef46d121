"""Drives berth with docker-py, one scenario by name:

    dockerpy.py SOCKET SCENARIO

The image "busybox" is there. A scenario that fails raises; the test shows the
traceback.
"""

import io
import json
import struct
import sys
import tarfile
import threading
import time

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.utils.socket import STDERR, STDOUT, demux_adaptor, frames_iter


def raises(kind, action, status=None, words=""):
    """The error that the action must end with."""
    try:
        result = action()
    except kind as error:
        if status is not None:
            assert error.response.status_code == status, error
        assert words in str(error), error
        return error
    raise AssertionError(f"{kind.__name__} expected, got {result!r}")


def lifecycle(client):
    container = client.containers.create(
        "busybox", ["sh", "-c", "echo out; echo err >&2; exit 7"], name="one", labels={"a": "b"}
    )
    assert container.status == "created", container.status
    container.start()
    assert container.wait() == {"StatusCode": 7}
    container.reload()
    assert container.status == "exited" and container.attrs["State"]["ExitCode"] == 7
    assert container.logs(stderr=False) == b"out\n"
    assert container.logs(stdout=False) == b"err\n"
    assert container.labels == {"a": "b"}
    assert container.image.tags == ["busybox:latest"], container.image.tags
    raises(APIError, lambda: client.containers.create("busybox", "true", name="one"), 409, "already in use")
    container.rename("two")
    assert client.containers.get("two").id == container.id
    container.remove()
    raises(NotFound, lambda: client.containers.get("two"), 404, "No such container: two")

    # The short way, and its error.
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
    error = raises(
        docker.errors.ContainerError,
        lambda: client.containers.run("busybox", "sh -c 'echo no >&2; exit 3'", remove=True),
    )
    assert error.exit_status == 3 and error.stderr == b"no\n", error.stderr

    container = client.containers.run("busybox", "sleep 1000", detach=True, mem_limit="64m", pids_limit=50)
    raises(APIError, container.remove, 409, "cannot remove container")
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    assert container.top()["Processes"][0][-1] == "sleep 1000", container.top()
    container.update(mem_limit="128m", memswap_limit="128m", cpu_shares=512)
    container.reload()
    host = container.attrs["HostConfig"]
    assert host["Memory"] == 128 << 20 and host["CpuShares"] == 512 and host["PidsLimit"] == 50, host
    started = container.attrs["State"]["StartedAt"]
    container.restart(timeout=0)
    container.reload()
    assert container.status == "running" and container.attrs["State"]["StartedAt"] != started
    container.kill("SIGKILL")
    assert container.wait(condition="not-running")["StatusCode"] == 137
    raises(APIError, container.kill, 409, "is not running")
    container.start()
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    container.remove(force=True, v=True)
    assert client.containers.prune()["ContainersDeleted"] is None


def lists(client):
    running = client.containers.run("busybox", "sleep 1000", detach=True, name="runs", labels={"kind": "x"})
    ended = client.containers.run("busybox", "false", detach=True, name="ended", labels=["kind=y"])
    ended.wait()
    ids = lambda **options: {container.id for container in client.containers.list(**options)}
    assert ids() == {running.id}
    assert ids(all=True) == {running.id, ended.id}
    assert ids(limit=1) == {ended.id}
    assert ids(filters={"status": "exited"}) == {ended.id}
    assert ids(all=True, filters={"label": "kind=x"}) == {running.id}
    assert ids(all=True, filters={"name": "^/end"}) == {ended.id}
    assert ids(all=True, filters={"exited": 1}) == {ended.id}
    assert ids(all=True, filters={"ancestor": "busybox"}) == {running.id, ended.id}
    assert ids(filters={"id": running.id[:12]}) == {running.id}
    assert ids(all=True, before="ended") == {running.id}
    raises(APIError, lambda: ids(filters={"nonsense": "1"}), 400, "invalid filter")


def logs(client):
    script = "for i in 1 2 3; do echo line $i; sleep 0.1; done"
    container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"line 1\nline 2\nline 3\n"
    container.wait()
    assert container.logs(tail=1) == b"line 3\n"
    assert list(container.logs(stream=True, tail=2)) == [b"line 2\n", b"line 3\n"]
    stamp, text = container.logs(timestamps=True, tail=1).split(b" ", 1)
    assert text == b"line 3\n" and stamp.endswith(b"Z"), stamp
    assert container.logs(since=int(time.time()) + 1000) == b""

    tty = client.containers.run("busybox", "echo terminal", detach=True, tty=True)
    tty.wait()
    assert tty.logs() == b"terminal\r\n"


def execs(client):
    container = client.containers.run("busybox", "sleep 1000", detach=True)
    result = container.exec_run("sh -c 'echo out; echo err >&2; exit 5'")
    assert result.exit_code == 5 and sorted(result.output.split()) == [b"err", b"out"], result
    result = container.exec_run("sh -c 'echo out; echo err >&2'", demux=True)
    assert result == (0, (b"out\n", b"err\n")), result
    assert b"".join(container.exec_run("seq 1 3", stream=True).output) == b"1\n2\n3\n"
    result = container.exec_run("sh -c 'id -u; pwd; echo $WORD'", user="1000", workdir="/tmp", environment=["WORD=x"])
    assert result.output == b"1000\n/tmp\nx\n", result
    assert container.exec_run("tty", tty=True).output == b"/dev/pts/0\r\n"
    result = container.exec_run("no-such-program")
    assert result.exit_code == 127 and b"not found" in result.output, result

    # A socket: input, half-close, output.
    created = client.api.exec_create(container.id, "cat", stdin=True)
    sock = client.api.exec_start(created["Id"], socket=True)
    sock._sock.sendall(b"through the socket\n")
    sock._sock.shutdown(1)
    output = b"".join(data for stream, data in frames_iter(sock, tty=False) if stream == STDOUT)
    assert output == b"through the socket\n", output
    state = client.api.exec_inspect(created["Id"])
    assert state["ExitCode"] == 0 and state["Running"] is False, state

    # Detached, and with a size.
    created = client.api.exec_create(container.id, "sleep 1000", tty=True)
    client.api.exec_start(created["Id"], detach=True)
    assert client.api.exec_inspect(created["Id"])["Running"] is True
    client.api.exec_resize(created["Id"], height=40, width=100)
    raises(NotFound, lambda: client.api.exec_inspect("nope"), 404, "No such exec instance")
    container.pause()
    raises(APIError, lambda: container.exec_run("true"), 409, "is paused")
    container.unpause()
    container.kill()
    container.wait()
    raises(APIError, lambda: container.exec_run("true"), 409, "is not running")


def stats(client):
    container = client.containers.run("busybox", "sleep 1000", detach=True, mem_limit="64m")
    once = container.stats(stream=False)
    assert once["memory_stats"]["limit"] == 64 << 20, once["memory_stats"]
    assert once["pids_stats"]["current"] == 1, once["pids_stats"]
    assert once["cpu_stats"]["cpu_usage"]["total_usage"] > 0, once["cpu_stats"]
    assert once["precpu_stats"]["cpu_usage"]["total_usage"] > 0, once["precpu_stats"]
    assert once["id"] == container.id and once["name"] == "/" + container.name, once
    assert "eth0" in once["networks"], once.get("networks")
    streamed = container.stats(stream=True, decode=True)
    first, second = next(streamed), next(streamed)
    assert second["read"] > first["read"] and second["preread"] == first["read"], (first, second)
    streamed.close()


def events(client):
    since = int(time.time()) - 1
    live = client.events(decode=True, filters={"type": "container"})
    container = client.containers.run("busybox", "true", detach=True, name="seen")
    container.wait()
    container.remove()
    seen = []
    for event in live:
        seen.append(event["Action"])
        assert event["Actor"]["Attributes"]["name"] == "seen", event
        if event["Action"] == "destroy":
            break
    live.close()
    assert seen == ["create", "start", "die", "destroy"], seen
    bounds = {"since": since, "until": int(time.time()) + 1}
    past = client.events(**bounds, decode=True, filters={"event": ["die"], "container": container.id})
    past = list(past)
    assert len(past) == 1 and past[0]["Actor"]["ID"] == container.id, past
    assert past[0]["Actor"]["Attributes"]["exitCode"] == "0", past


def attach(client):
    # A plain stream of a container's output.
    container = client.containers.create("busybox", "sh -c 'echo out; echo err >&2'")
    stream = container.attach(stream=True, demux=True)
    container.start()
    parts = list(stream)
    assert b"".join(out or b"" for out, _ in parts) == b"out\n", parts
    assert b"".join(err or b"" for _, err in parts) == b"err\n", parts
    assert container.attach(logs=True, stream=False, stdout=True, stderr=False) == b"out\n"

    # A socket, as docker-py asks for one: with "Upgrade: tcp".
    container = client.containers.create("busybox", "cat", stdin_open=True, detach=False)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    container.start()
    sock._sock.sendall(b"one\ntwo\n")
    sock._sock.shutdown(1)
    output = b"".join(data for _, data in frames_iter(sock, tty=False))
    assert output == b"one\ntwo\n", output
    assert container.wait()["StatusCode"] == 0

    # With a terminal there are no frames.
    container = client.containers.create("busybox", "sh", stdin_open=True, tty=True)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    container.resize(height=33, width=99)
    sock._sock.sendall(b"stty size; exit 4\n")
    output = b""
    while chunk := sock._sock.recv(4096):
        output += chunk
    assert b"33 99\r\n" in output, output
    assert container.wait()["StatusCode"] == 4


def hijack(client):
    """The same socket without an Upgrade header, as old clients open it."""
    import socket

    container = client.containers.create("busybox", "cat", stdin_open=True)
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(10)
    raw.connect(sys.argv[1])
    path = f"/v1.41/containers/{container.id}/attach?stdin=1&stdout=1&stderr=1&stream=1"
    raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    assert b"application/vnd.docker.raw-stream" in head, head
    container.start()
    raw.sendall(b"old way\n")
    raw.shutdown(socket.SHUT_WR)
    data = b""
    while chunk := raw.recv(4096):
        data += chunk
    stream, size = struct.unpack(">BxxxL", data[:8])
    assert (stream, data[8:]) == (STDOUT, b"old way\n") and size == 8, data
    assert container.wait()["StatusCode"] == 0


def rootfs():
    """A root filesystem with one file, as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("hello.txt")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    return archive.getvalue()


def docker_archive():
    """An image archive of the form that `docker save` writes."""
    import hashlib

    layer = rootfs()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Labels": {"made": "here"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created_by": "test"}],
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": ["loaded:v1"], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, data in [
            (f"{name}.json", config),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def images(client):
    image = client.images.get("busybox")
    assert image.tags == ["busybox:latest"] and image.attrs["Os"] == "linux"
    assert len(image.history()) == 1, image.history()
    answer = client.api.import_image_from_data(rootfs(), repository="made", tag="1")
    assert "sha256:" in answer, answer
    made = client.images.get("made:1")
    assert made.tag("other", "2") is True
    made.reload()
    assert sorted(made.tags) == ["made:1", "other:2"], made.tags
    (loaded,) = client.images.load(docker_archive())
    assert loaded.tags == ["loaded:v1"] and loaded.labels == {"made": "here"}, loaded.attrs
    names = lambda **options: sorted(tag for image in client.images.list(**options) for tag in image.tags)
    everything = names()
    for tag in ["busybox:latest", "loaded:v1", "made:1", "other:2"]:
        assert tag in everything, everything
    assert names(name="made") == ["made:1"] or "made:1" in names(name="made")
    assert names(filters={"label": "made=here"}) == ["loaded:v1"]
    assert names(filters={"reference": "oth*"}).count("other:2") == 1
    client.images.remove("other:2")
    client.images.remove("made:1")
    raises(ImageNotFound, lambda: client.images.get("made:1"), 404, "No such image: made:1")
    raises(ImageNotFound, lambda: client.containers.create("nowhere/to:be", "true"), 404, "No such image")
    container = client.containers.create("busybox", "true")
    raises(APIError, lambda: client.images.remove("busybox"), 409, "conflict")
    container.remove()
    raises(APIError, lambda: client.images.load(b"no archive"), 400)


def builds(client):
    text = b"FROM busybox\nARG WORD\nRUN echo said $WORD > /said; cat /said\nCMD cat /said\n"
    image, log = client.images.build(
        fileobj=io.BytesIO(text),
        tag="built",
        buildargs={"WORD": "this"},
        labels={"a": "b"},
        nocache=True,
        pull=False,
        rm=True,
        container_limits={"memory": 64 << 20, "cpushares": 512},
    )
    said = "".join(line.get("stream", "") for line in log)
    assert "Step 3/5 : RUN echo said" in said and "\nsaid this\n" in said, said
    assert image.tags == ["built:latest"] and image.labels == {"a": "b"}, image.attrs
    assert f"Successfully built {image.id[7:19]}\n" in said, said
    output = client.containers.run("built", remove=True)
    assert output == b"said this\n", output

    # The error that the library makes of the stream, with what came before.
    error = raises(
        docker.errors.BuildError,
        lambda: client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo before; exit 5\n")),
        words="The command '/bin/sh -c echo before; exit 5' returned a non-zero code: 5",
    )
    assert any(line.get("stream") == "before\n" for line in error.build_log), error
    raises(
        APIError,
        lambda: client.images.build(fileobj=io.BytesIO(b"FROM busybox\nNONSENSE x\n")),
        400,
        "unknown instruction: NONSENSE",
    )

    # A context of its own making, compressed; the Dockerfile somewhere in it.
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w:gz") as tar:
        for name, data in (("deep/Dockerfile.x", b"FROM scratch\nCOPY f /g\n"), ("f", b"f")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    context.seek(0)
    lines = client.api.build(
        fileobj=context, custom_context=True, encoding="gzip", dockerfile="deep/Dockerfile.x", decode=True
    )
    lines = list(lines)
    assert lines[-1]["stream"].startswith("Successfully built "), lines
    assert any(line.get("aux", {}).get("ID", "").startswith("sha256:") for line in lines), lines

    pruned = client.api.prune_builds(all=True)
    assert pruned["CachesDeleted"] and pruned["SpaceReclaimed"] >= 0, pruned


def system(client):
    assert client.ping() is True
    version = client.version()
    assert version["Os"] == "linux" and version["ApiVersion"], version
    info = client.info()
    assert info["Images"] >= 1 and info["OSType"] == "linux", info
    (bridge,) = client.networks.list(names=["bridge"])
    container = client.containers.run("busybox", "sleep 1000", detach=True)
    assert container.attrs["HostConfig"]["NetworkMode"] in ("default", "bridge")
    container.reload()
    endpoint = container.attrs["NetworkSettings"]["Networks"]["bridge"]
    assert endpoint["IPAddress"] and endpoint["NetworkID"] == bridge.id, endpoint


def errors(client):
    raises(NotFound, lambda: client.containers.get("nope"), 404, "No such container: nope")
    raises(ImageNotFound, lambda: client.images.get("nope"), 404, "No such image: nope")
    raises(APIError, lambda: client.containers.create("busybox", "true", name="?"), 400, "Invalid container name")
    container = client.containers.create("busybox", "no-such-program")
    raises(APIError, container.start, 400, "executable file not found")
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 127, container.attrs["State"]
    container = client.containers.create("busybox", "/etc/not-executable")
    raises(APIError, container.start, 400, "permission denied")
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 126, container.attrs["State"]
    raises(APIError, lambda: client.containers.create("busybox", "true", mem_limit="1m"), 400, "6MB")
    raises(NotFound, lambda: client.networks.get("nope"), 404, "network nope not found")
    # What berth lacks is refused, not ignored.
    raises(APIError, lambda: client.networks.create("net"), 501, "not supported")


def main():
    scenario = globals()[sys.argv[2]]
    client = docker.DockerClient(base_url=f"unix://{sys.argv[1]}", version="auto", timeout=30)
    scenario(client)
    client.close()


main()
