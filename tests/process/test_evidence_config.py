"""The config root of real processes whose root is hostile ground: links, pipes, devices, floods, races."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attestor.collectors.config import ConfigLimits, config_root, measure_config
from attestor.digests import DigestCache, FileUnstable, Stamp
from attestor.facts import ConfigFacts, Unreadable
from children import Child, child, open_descriptors

LIMITS = ConfigLimits(file_bytes=4096, files=16, total_bytes=16_384)
CHROOT = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); print('ready'); input()"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that becomes the root of the component's process."""
    folder = tmp_path / "root"
    (folder / "etc/agent").mkdir(parents=True)
    (folder / "etc/agent/settings.yaml").write_text("model: small\n")
    return folder


@pytest.fixture
def component(root: Path) -> Iterator[Child]:
    with child(CHROOT, str(root)) as process:
        yield process


@contextmanager
def root_of(pid: int) -> Iterator[int]:
    fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def measure(
    process: Child, *paths: str, limits: ConfigLimits = LIMITS, cache: DigestCache | None = None
) -> ConfigFacts | Unreadable:
    with root_of(process.pid) as fd:
        return measure_config(fd, paths, limits, cache or DigestCache())


def code(result: ConfigFacts | Unreadable) -> str:
    assert isinstance(result, Unreadable), result
    return result.code


def root_over(files: dict[str, bytes]) -> str:
    return config_root({path: "sha256:" + hashlib.sha256(content).hexdigest() for path, content in files.items()})


def assert_root(result: ConfigFacts | Unreadable, files: dict[str, bytes]) -> None:
    assert isinstance(result, ConfigFacts), result
    assert dict(result.files).keys() == files.keys()
    assert result.root == root_over(files)


def test_files_and_folders_are_seen_as_the_process_sees_them(component: Child, root: Path) -> None:
    (root / "etc/prompts/deep").mkdir(parents=True)
    (root / "etc/prompts/a").write_bytes(b"a")
    (root / "etc/prompts/deep/b").write_bytes(b"b")
    (root / "etc/prompts/empty").mkdir()
    assert_root(
        measure(component, "/etc/prompts", "/etc/agent/settings.yaml"),
        {
            "/etc/agent/settings.yaml": b"model: small\n",
            "/etc/prompts/a": b"a",
            "/etc/prompts/deep/b": b"b",
        },
    )


def test_an_empty_folder_adds_nothing(component: Child, root: Path) -> None:
    (root / "empty").mkdir()
    assert_root(measure(component, "/empty"), {})


def test_the_whole_root_can_be_declared(component: Child) -> None:
    assert_root(measure(component, "/"), {"/etc/agent/settings.yaml": b"model: small\n"})


def _absolute_symlink(root: Path) -> None:
    (root / "target").symlink_to("/etc/hostname")


def _relative_symlink(root: Path) -> None:
    (root / "target").symlink_to("etc/agent/settings.yaml")


def _escaping_symlink(root: Path) -> None:
    (root / "target").symlink_to("../" * 20 + "etc/hostname")


def _looping_symlink(root: Path) -> None:
    (root / "target").symlink_to("target")


def _dangling_symlink(root: Path) -> None:
    (root / "target").symlink_to("nowhere")


def _folder_with_symlink(root: Path) -> None:
    (root / "target").mkdir()
    (root / "target/x").symlink_to("/etc/hostname")


def _data_link_out_of_the_folder(root: Path) -> None:
    (root / "target").mkdir()
    (root / "target/..data").symlink_to("../etc/agent")


def _data_link_to_itself(root: Path) -> None:
    (root / "target").mkdir()
    (root / "target/..data").symlink_to("..data")


def _data_link_through_another_link(root: Path) -> None:
    (root / "target").mkdir()
    (root / "target/..hop").symlink_to("/etc/agent")
    (root / "target/..data").symlink_to("..hop")


def _visible_link_past_data(root: Path) -> None:
    make_volume(root / "target", "..v1", {"a": b"1"})
    (root / "target/b").symlink_to("..data/../../etc/agent/settings.yaml")


def _visible_link_to_another_name(root: Path) -> None:
    make_volume(root / "target", "..v1", {"a": b"1"})
    (root / "target/b").symlink_to("..data/a")


def _link_inside_the_volume(root: Path) -> None:
    make_volume(root / "target", "..v1", {"a": b"1"})
    (root / "target/..v1/b").symlink_to("/etc/hostname")
    (root / "target/b").symlink_to("..data/b")


def _pipe(root: Path) -> None:
    os.mkfifo(root / "target")


def _pipe_in_folder(root: Path) -> None:
    (root / "target").mkdir()
    os.mkfifo(root / "target/pipe")


def _character_device(root: Path) -> None:
    os.mknod(root / "target", 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def _terminal(root: Path) -> None:
    os.mknod(root / "target", 0o666 | stat.S_IFCHR, os.makedev(5, 0))


def _block_device(root: Path) -> None:
    os.mknod(root / "target", 0o666 | stat.S_IFBLK, os.makedev(7, 0))


def _socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "target"))


def _huge_sparse(root: Path) -> None:
    with (root / "target").open("wb") as file:
        file.truncate(1 << 40)


def _one_byte_over(root: Path) -> None:
    (root / "target").write_bytes(b"x" * 4097)


def _too_large_together(root: Path) -> None:
    (root / "target").mkdir()
    for number in range(5):
        (root / f"target/{number}").write_bytes(b"x" * 4000)


def _one_file_too_many(root: Path) -> None:
    (root / "target").mkdir()
    for number in range(17):
        (root / f"target/{number:02}").touch()


def _many_entries(root: Path) -> None:
    (root / "target").mkdir()
    for number in range(40):
        (root / f"target/{number}").mkdir()


def _too_deep(root: Path) -> None:
    (root / "target" / "/".join(["d"] * 33)).mkdir(parents=True)


def _name_with_dots(root: Path) -> None:
    (root / "target").mkdir()
    (root / "target/..hidden").touch()


def _name_not_utf8(root: Path) -> None:
    (root / "target").mkdir()
    Path(os.fsdecode(os.fsencode(root / "target") + b"/\xff")).touch()


HOSTILE: list[tuple[Callable[[Path], None], str]] = [
    (_absolute_symlink, "config_symlink_refused"),
    (_relative_symlink, "config_symlink_refused"),
    (_escaping_symlink, "config_symlink_refused"),
    (_looping_symlink, "config_symlink_refused"),
    (_dangling_symlink, "config_symlink_refused"),
    (_folder_with_symlink, "config_symlink_refused"),
    (_data_link_out_of_the_folder, "config_symlink_refused"),
    (_data_link_to_itself, "config_symlink_refused"),
    (_data_link_through_another_link, "config_symlink_refused"),
    (_visible_link_past_data, "config_symlink_refused"),
    (_visible_link_to_another_name, "config_symlink_refused"),
    (_link_inside_the_volume, "config_symlink_refused"),
    (_pipe, "config_kind_refused"),
    (_pipe_in_folder, "config_kind_refused"),
    (_character_device, "config_kind_refused"),
    (_terminal, "config_kind_refused"),
    (_block_device, "config_kind_refused"),
    (_socket, "config_kind_refused"),
    (_huge_sparse, "config_too_large"),
    (_one_byte_over, "config_too_large"),
    (_too_large_together, "config_too_large"),
    (_one_file_too_many, "config_too_many"),
    (_many_entries, "config_too_many"),
    (_too_deep, "config_too_deep"),
    (_name_with_dots, "config_name_refused"),
    (_name_not_utf8, "config_name_refused"),
]


def make_volume(folder: Path, version: str, files: dict[str, bytes]) -> None:
    """A Kubernetes atomic volume as the kubelet writes it."""
    content = folder / version
    for name, data in files.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_bytes(data)
    (folder / "..data").symlink_to(version)
    for name in {name.partition("/")[0] for name in files}:
        (folder / name).symlink_to(f"..data/{name}")


@pytest.mark.parametrize(("make", "expected"), HOSTILE, ids=[make.__name__.strip("_") for make, _ in HOSTILE])
def test_hostile_files_are_refused_with_their_reason_and_never_hang(
    component: Child, root: Path, make: Callable[[Path], None], expected: str
) -> None:
    make(root)
    before = open_descriptors()
    assert code(measure(component, "/target")) == expected
    assert open_descriptors() <= before


@pytest.mark.parametrize("path", ["/../etc/hostname", "/etc/../etc/agent", "etc", "", "/etc/", "/etc//agent", "/\0"])
def test_a_declared_path_that_is_not_canonical_is_refused(component: Child, path: str) -> None:
    assert code(measure(component, path)) == "config_path_invalid"


@pytest.mark.parametrize("path", ["/nowhere", "/etc/agent/none.yaml", "/etc/agent/settings.yaml/x"])
def test_a_missing_file_has_a_code_of_its_own(component: Child, path: str) -> None:
    assert code(measure(component, path)) == "config_file_missing"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("/etc/agent", "/etc/agent/settings.yaml"), "config_path_twice"),
        (("/etc/agent", "/etc/agent"), "config_path_twice"),
        (("/etc", "/etc/agent"), "config_path_twice"),
    ],
)
def test_a_file_reached_twice_is_an_error(component: Child, paths: tuple[str, ...], expected: str) -> None:
    assert code(measure(component, *paths)) == expected


def test_limits_hold_on_both_sides(component: Child, root: Path) -> None:
    (root / "target").mkdir()
    for number in range(4):
        (root / f"target/{number}").write_bytes(b"x" * 4096)
    for number in range(12):
        (root / f"target/empty{number:02}").touch()
    assert isinstance(measure(component, "/target"), ConfigFacts)
    deep = root / "deep" / "/".join(["d"] * 32)
    deep.mkdir(parents=True)
    assert_root(measure(component, "/deep"), {})


def test_files_of_the_kernel_and_magic_links_are_refused(root: Path) -> None:
    mounted = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
        "assert libc.mount(b'proc', sys.argv[1].encode() + b'/proc', b'proc', 0, None) == 0\n"
    )
    (root / "proc").mkdir()
    with child(mounted + CHROOT, str(root)) as process:
        assert code(measure(process, "/proc/version")) == "config_kind_refused"
        assert code(measure(process, "/proc/kmsg")) == "config_kind_refused"
        assert code(measure(process, "/proc/self/root/etc/hostname")) == "config_symlink_refused"
        assert code(measure(process, f"/proc/{os.getpid()}/root/etc/hostname")) == "config_symlink_refused"


def test_an_atomic_volume_is_hashed_under_its_visible_names(component: Child, root: Path) -> None:
    make_volume(root / "volume", "..2026_11_23_06_00_00.123456789", {"a": b"1", "sub/b": b"2"})
    (root / "volume/..2026_11_23_05_00_00.987654321").mkdir()
    (root / "volume/..data_tmp").symlink_to("..2026_11_23_06_00_00.123456789")
    expected = {"/volume/a": b"1", "/volume/sub/b": b"2"}
    assert_root(measure(component, "/volume"), expected)
    assert_root(measure(component, "/volume/a"), {"/volume/a": b"1"})
    assert_root(measure(component, "/volume/sub"), {"/volume/sub/b": b"2"})
    plain = root / "plain"
    (plain / "sub").mkdir(parents=True)
    (plain / "a").write_bytes(b"1")
    (plain / "sub/b").write_bytes(b"2")
    facts = measure(component, "/plain")
    assert isinstance(facts, ConfigFacts)
    assert {path.removeprefix("/plain"): value for path, value in facts.files} == {
        path.removeprefix("/volume"): value
        for path, value in measure(component, "/volume").files  # type: ignore[union-attr]
    }


def race(change: Callable[[int], None], look: Callable[[], None], rounds: int) -> None:
    """Look ``rounds`` times while ``change`` runs without pause, and once more when it has ended."""
    stop = threading.Event()
    changes = 0

    def run() -> None:
        nonlocal changes
        while not stop.is_set():
            change(changes)
            changes += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        looks = 0
        while looks < rounds or changes < 2:
            look()
            looks += 1
    finally:
        stop.set()
        thread.join()
    look()


def test_a_swap_of_an_atomic_volume_is_seen_whole_or_not_at_all(component: Child, root: Path) -> None:
    versions = [{"a": b"1", "b": b"1"}, {"a": b"2", "b": b"2"}]
    folder = root / "volume"
    make_volume(folder, "..2026_01_01_00_00_00.0", versions[0])
    (folder / "..2026_01_01_00_00_00.1").mkdir()
    for name, data in versions[1].items():
        (folder / "..2026_01_01_00_00_00.1" / name).write_bytes(data)
    roots = {root_over({f"/volume/{name}": data for name, data in version.items()}) for version in versions}
    seen: set[str] = set()

    def swap(number: int) -> None:
        (folder / "..data_tmp").symlink_to(f"..2026_01_01_00_00_00.{number % 2}")
        (folder / "..data_tmp").rename(folder / "..data")

    def look() -> None:
        result = measure(component, "/volume")
        seen.add(result.root if isinstance(result, ConfigFacts) else result.code)

    race(swap, look, 300)
    assert seen <= {*roots, "config_unstable"}
    assert seen & roots


def test_a_renamed_over_file_gives_one_version_or_the_other(component: Child, root: Path) -> None:
    contents = [b"old" * 1000, b"new" * 1000]
    roots = {root_over({"/etc/agent/settings.yaml": content}) for content in contents}
    seen: set[str] = set()

    def swap(number: int) -> None:
        (root / "next").write_bytes(contents[number % 2])
        (root / "next").rename(root / "etc/agent/settings.yaml")

    def look() -> None:
        result = measure(component, "/etc/agent/settings.yaml")
        seen.add(result.root if isinstance(result, ConfigFacts) else result.code)

    swap(0)
    race(swap, look, 300)
    assert seen <= {*roots, "config_unstable"}
    assert seen & roots


def test_two_files_swapped_together_are_never_mixed(component: Child, root: Path) -> None:
    for name in ("v0", "v1"):
        (root / name).mkdir()
        for file in ("a", "b"):
            (root / name / file).write_bytes(name.encode())
    roots = {root_over({f"/live/{file}": name.encode() for file in ("a", "b")}) for name in ("v0", "v1")}
    os.rename(root / "v0", root / "live")
    seen: set[str] = set()
    names = ["v0", "v1"]

    def swap(number: int) -> None:
        current, following = names[number % 2], names[(number + 1) % 2]
        os.rename(root / "live", root / current)
        os.rename(root / following, root / "live")

    def look() -> None:
        result = measure(component, "/live")
        seen.add(result.root if isinstance(result, ConfigFacts) else result.code)

    race(swap, look, 300)
    assert seen <= {*roots, "config_unstable", "config_file_missing"}


def test_a_file_written_while_it_is_read_is_whole_or_unstable(component: Child, root: Path) -> None:
    path = root / "etc/agent/settings.yaml"
    contents = [b"a" * 4096, b"b" * 4096]
    roots = {root_over({"/etc/agent/settings.yaml": content}) for content in contents}
    mixed = 0

    def write(number: int) -> None:
        path.write_bytes(contents[number % 2])

    def look() -> None:
        nonlocal mixed
        result = measure(component, "/etc/agent/settings.yaml")
        if isinstance(result, ConfigFacts) and result.root not in {
            *roots,
            root_over({"/etc/agent/settings.yaml": b""}),
        }:
            mixed += 1

    write(0)
    race(write, look, 300)
    assert mixed == 0


def test_the_cache_never_serves_a_changed_file(component: Child, root: Path) -> None:
    path = root / "etc/agent/settings.yaml"
    cache = DigestCache()
    os.utime(path, (1, 1))
    for content in (b"one", b"two", b"six"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        assert_root(measure(component, "/etc/agent/settings.yaml", cache=cache), {"/etc/agent/settings.yaml": content})


def test_a_settled_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "settled"
    path.write_bytes(b"x")
    later = path.stat().st_ctime_ns + 10_000_000_000
    cache = DigestCache()
    with path.open("rb") as file:
        first = cache.digest(file.fileno(), limit_bytes=10, now_ns=later)
        cache._digests[first[1]] = "sha256:from-cache"
        assert cache.digest(file.fileno(), limit_bytes=10, now_ns=later)[0] == "sha256:from-cache"


def test_a_fresh_file_is_not_cached_and_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = DigestCache(entries=2)
    for number in range(4):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        with path.open("rb") as file:
            cache.digest(file.fileno(), limit_bytes=10, now_ns=path.stat().st_ctime_ns + 1)
            assert number > 0 or not cache._digests
            cache.digest(file.fileno(), limit_bytes=10, now_ns=path.stat().st_ctime_ns + 10_000_000_000)
    assert len(cache._digests) == 2


def test_failed_measurements_leave_no_descriptor_open(component: Child, root: Path) -> None:
    for make, _ in HOSTILE[:12]:
        shutil.rmtree(root / "target", ignore_errors=True)
        (root / "target").unlink(missing_ok=True)
        make(root)
        before = open_descriptors()
        for _ in range(100):
            measure(component, "/etc/agent", "/target")
        assert open_descriptors() <= before


def test_the_host_itself_can_be_measured_without_any_process(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    fd = os.open("/", os.O_PATH)
    try:
        assert_root(measure_config(fd, (str(tmp_path),), LIMITS, DigestCache()), {str(tmp_path / "a"): b"1"})
    finally:
        os.close(fd)


class MeddlingCache(DigestCache):
    """A cache behind which somebody changes files: ``meddle`` runs right after each hash."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__()
        self.meddle = meddle

    def digest(self, fd: int, *, limit_bytes: int, now_ns: int) -> tuple[str, Stamp]:
        answer = super().digest(fd, limit_bytes=limit_bytes, now_ns=now_ns)
        self.meddle()
        return answer


def test_a_root_over_files_that_never_stood_together_is_not_given_out(component: Child, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    (root / "b").write_bytes(b"old")
    changes = [root / "a", root / "b"]

    def change_one() -> None:
        if changes:
            changes.pop().write_bytes(b"new")

    assert_root(measure(component, "/a", "/b", cache=MeddlingCache(change_one)), {"/a": b"new", "/b": b"new"})


@pytest.mark.parametrize("paths", [("/a",), ("/folder",)])
def test_files_that_never_stand_still_are_unstable(component: Child, root: Path, paths: tuple[str, ...]) -> None:
    (root / "folder").mkdir()
    (root / "folder/x").touch()
    (root / "a").touch()
    number = iter(range(1000))

    def change() -> None:
        (root / "a").write_bytes(str(next(number)).encode())
        (root / f"folder/{next(number)}").touch()

    assert code(measure(component, *paths, cache=MeddlingCache(change), limits=ConfigLimits())) == "config_unstable"


def test_a_file_that_changes_between_two_reads_of_it_is_not_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    pread = os.pread
    for meddle in (lambda: path.write_bytes(b"other"), lambda: os.truncate(path, 2), lambda: os.truncate(path, 9)):
        path.write_bytes(b"first")

        def read(fd: int, size: int, offset: int, meddle: Callable[[], object] = meddle) -> bytes:
            data = pread(fd, size, offset)
            if offset == 0:
                meddle()
            return data

        monkeypatch.setattr(os, "pread", read)
        with path.open("rb") as file, pytest.raises(FileUnstable):
            DigestCache().digest(file.fileno(), limit_bytes=100, now_ns=0)
        monkeypatch.undo()
