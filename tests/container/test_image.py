"""The image as a hospital would run it: built here from a bare Debian, then used without network, root or a writable root.

    sudo pytest -m slow -s tests/container         # Debian: apt-get install buildah podman runc debootstrap

Needs root (debootstrap, overlay), 25 GB of disk and the package registries, for the build alone. Behind a
proxy that inspects TLS, SSL_CERT_FILE names the certificates to trust.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MISSING = [name for name in ("buildah", "podman", "runc", "debootstrap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs Debian's {' '.join(MISSING)}: apt-get install {' '.join(MISSING)}"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: debootstrap makes a file system"),
]
CERTIFICATES = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
# The options that docker/README.md gives; the kernel kills a process that exceeds the memory limit, swap included.
CLOSED = [
    "--rm",
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--network",
    "none",
    "--memory",
    "4g",
    "--memory-swap",
    "4g",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
    "--user",
    "10001:10001",
]
PEAK = "cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.peak"
SIZES = """
import json
from collections import Counter
from importlib.metadata import distributions
sizes = Counter()
for package in distributions():
    sizes[package.name] += sum(f.locate().stat().st_size for f in package.files or () if f.locate().exists())
print(json.dumps(dict(sizes)))
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a store of its own, which is removed in the end."""
    place = tmp_path_factory.mktemp("containers")
    storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/store"\nrunroot = "{place}/run"\n'
    (place / "storage.conf").write_text(storage)
    limits = 'default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]'  # the defaults ask for more than root may have
    engine = '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
    (place / "containers.conf").write_text(f"[containers]\n{limits}\n{engine}")
    environment = os.environ | {
        "CONTAINERS_STORAGE_CONF": f"{place}/storage.conf",
        "CONTAINERS_CONF": f"{place}/containers.conf",
        "BUILDAH_ISOLATION": "chroot",
    }
    yield environment
    subprocess.run(["podman", "rm", "-af"], env=environment, check=False, capture_output=True)
    subprocess.run(["podman", "rmi", "-af"], env=environment, check=False, capture_output=True)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def image(podman: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, made by `make image` on a Debian with nothing but Python."""
    system = tmp_path_factory.mktemp("debian") / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    output_of("debootstrap", "--variant=minbase", packages, "bookworm", str(system))
    packed = subprocess.Popen(["tar", "-C", system, "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(["podman", "import", "-", "localhost/debian"], env=podman, stdin=packed.stdout, check=True)
    assert packed.wait() == 0
    shutil.rmtree(system)
    started = time.perf_counter()
    ca = f"FLAGS=--secret id=ca,src={CERTIFICATES}" if Path(CERTIFICATES).exists() else "FLAGS="
    output_of(
        "make", "-C", str(ROOT), "image", "BUILDER=buildah", "BASE=localhost/debian", "IMAGE=medssl", ca, env=podman
    )
    print(f"built in {time.perf_counter() - started:.0f} s")
    return "localhost/medssl"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that the user of the image may write to."""
    os.chown(tmp_path, 10001, 10001)
    return tmp_path


def output_of(*command: str, env: dict[str, str] | None = None, code: int = 0) -> str:
    """Return what a command printed; it must end with the exit code."""
    with tempfile.TemporaryDirectory() as here:  # where a container is killed its runtime leaves a file behind
        done = subprocess.run(
            command, cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    assert done.returncode == code, f"{command[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def shell(podman: dict[str, str], image: str, script: str, *more: str, code: int = 0) -> str:
    """What a script printed in the closed container."""
    return output_of("podman", "run", *CLOSED, *more, "--entrypoint", "sh", image, "-c", script, env=podman, code=code)


def test_the_container_is_closed(podman: dict[str, str], image: str) -> None:
    assert shell(podman, image, "id -u; id -g; id -G").split() == ["10001"] * 3
    assert "Read-only file system" in shell(podman, image, "touch /x", code=1)
    assert "Read-only file system" in shell(podman, image, "touch /opt/medssl/x", code=1)
    devices = shell(podman, image, "tail -n +3 /proc/net/dev | cut -d: -f1")
    assert devices.split() == ["lo"]
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    assert "Network is unreachable" in shell(podman, image, f'python -c "{reach}"', code=1)
    assert shell(podman, image, "python -c 'print(len(bytearray(3 << 30)))'").strip() == str(3 << 30)
    shell(podman, image, "python -c 'bytearray(5 << 30)'", code=137)  # killed: the limit is one


def test_the_image_holds_the_lock_and_no_tool_of_the_tests(podman: dict[str, str], image: str) -> None:
    size = int(output_of("podman", "image", "inspect", "--format", "{{.Size}}", image, env=podman))
    command = ["podman", "run", *CLOSED, "--entrypoint", "python", image, "-c", SIZES]
    sizes = json.loads(output_of(*command, env=podman).splitlines()[-1])
    print(f"image: {size / 1e9:.2f} GB, of it {sum(sizes.values()) / 1e9:.2f} GB Python packages")
    for name, number in sorted(sizes.items(), key=lambda item: -item[1])[:25]:
        print(f"{number / 1e6:8.0f} MB  {name}")
    assert {"medssl", "torch", "streamlit"} <= set(sizes)
    assert not {"pytest", "playwright", "SimpleITK", "mypy", "ruff"} & set(sizes)
    history = output_of("podman", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image, env=podman)
    assert "://" not in history


def test_the_demo_runs_closed_in_4_gib_and_the_dashboard_shows_it(
    podman: dict[str, str], image: str, work: Path
) -> None:
    started = time.perf_counter()
    log = shell(podman, image, f"medssl demo && ls -n demo && ({PEAK})", "-v", f"{work}:/work")
    print(log[-6000:])
    peak = int(log.split()[-1])
    print(f"demo: {time.perf_counter() - started:.0f} s, peak {peak / 2**30:.2f} GiB, page cache included")
    assert (work / "demo" / "report.html").stat().st_size > 100_000
    assert {(p.stat().st_uid, p.stat().st_gid) for p in (work / "demo").rglob("*")} == {(10001, 10001)}
    served = [
        "-d",
        "--name",
        "dashboard",
        "-v",
        f"{work}:/work:ro",
        image,
        "review",
        "demo/study",
        "--data",
        "demo/cache",
    ]
    output_of("podman", "run", *CLOSED, *served, "--host", "0.0.0.0", env=podman)
    ask = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8501/_stcore/health').read().decode())"
    for _ in range(100):
        time.sleep(1)
        answer = subprocess.run(["podman", "exec", "dashboard", "python", "-c", ask], env=podman, capture_output=True)
        if answer.returncode == 0:
            break
    assert answer.stdout.strip() == b"ok", answer.stderr[-2000:]
    output_of("podman", "stop", "dashboard", env=podman)
