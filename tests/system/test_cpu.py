"""How many threads this process may use."""

from pathlib import Path

import pytest

from levit_cli.system import cpu
from levit_cli.system.cpu import cgroup_quota, usable_threads

V1_MOUNT = "33 31 0:30 {group} {point} rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
V2_MOUNT = "33 31 0:30 {group} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
OTHER_MOUNTS = [
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
]


@pytest.mark.guarantee("cpu-limits")
@pytest.mark.parametrize(
    ("affinity", "quota", "requested", "expected"),
    [(8, 0, 0, 8), (8, 2, 0, 2), (2, 4, 0, 2), (8, 4, 1, 1), (4, 0, 9, 4)],
)
def test_threads_are_the_minimum_of_affinity_quota_and_request(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: int, requested: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpu, "cgroup_quota", lambda: quota)
    assert usable_threads(requested) == expected


# --- a fake file system: /proc/self/cgroup, /proc/self/mountinfo and the files of the control groups


def fake(root: Path, groups: list[str], mounts: list[str], limits: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(["9:cpuset:/other", *groups]) + "\n")
    (root / "proc/self/mountinfo").write_text("\n".join([*OTHER_MOUNTS, *mounts]) + "\n")
    for folder, limit in limits.items():
        write_limit(root / folder.lstrip("/"), limit)
    return root


def write_limit(folder: Path, limit: str) -> None:
    """Write ``v1 QUOTA PERIOD`` or ``v2 QUOTA PERIOD`` as the files of one control group."""
    version, quota, period = limit.split()
    folder.mkdir(parents=True, exist_ok=True)
    if version == "v2":
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def v1(group: str = "/", point: str = "/sys/fs/cgroup/cpu,cpuacct") -> str:
    return V1_MOUNT.format(group=group, point=point)


def v2(group: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return V2_MOUNT.format(group=group, point=point)


SYSTEMD_V2 = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-p1\\x2dx.scope"
CASES: dict[str, tuple[list[str], list[str], dict[str, str], int]] = {
    "no limit anywhere": (["0::/"], [v2()], {}, 0),
    "v2, the group itself": (["0::/job"], [v2()], {"/sys/fs/cgroup/job": "v2 200000 100000"}, 2),
    "v2, rounded up": (["0::/job"], [v2()], {"/sys/fs/cgroup/job": "v2 250000 100000"}, 3),
    "v2, less than one core": (["0::/job"], [v2()], {"/sys/fs/cgroup/job": "v2 10000 100000"}, 1),
    "v2, max": (["0::/job"], [v2()], {"/sys/fs/cgroup/job": "v2 max 100000"}, 0),
    "v2, only an ancestor": (
        ["0::/batch/job/step"], [v2()],
        {"/sys/fs/cgroup/batch": "v2 300000 100000", "/sys/fs/cgroup/batch/job/step": "v2 max 100000"}, 3,
    ),
    "v2, the smallest of all ancestors": (
        ["0::/a/b/c"], [v2()],
        {
            "/sys/fs/cgroup/a": "v2 600000 100000",
            "/sys/fs/cgroup/a/b": "v2 200000 100000",
            "/sys/fs/cgroup/a/b/c": "v2 400000 100000",
            "/sys/fs/cgroup/other": "v2 100000 100000",
        }, 2,
    ),
    "v2, a systemd scope in a user session": (
        ["0::" + SYSTEMD_V2.removeprefix("/sys/fs/cgroup")], [v2()],
        {SYSTEMD_V2: "v2 max 100000", str(Path(SYSTEMD_V2).parents[2]): "v2 150000 100000"}, 2,
    ),
    "v2, a container with a namespace of its own": (["0::/"], [v2()], {"/sys/fs/cgroup": "v2 400000 100000"}, 4),
    "v2, the container's group is mounted, the path is the host's": (
        ["0::/docker/abc/inner"], [v2("/docker/abc")],
        {"/sys/fs/cgroup": "v2 500000 100000", "/sys/fs/cgroup/inner": "v2 200000 100000"}, 2,
    ),
    "v2, the path is not visible below the mount": (
        ["0::/kubepods.slice/pod1/ctr"], [v2()], {"/sys/fs/cgroup": "v2 200000 100000"}, 2,
    ),
    "v2, only the end of the path is visible below the mount": (
        ["0::/kubepods.slice/pod1/ctr/job"], [v2()],
        {"/sys/fs/cgroup/ctr": "v2 300000 100000", "/sys/fs/cgroup/ctr/job": "v2 200000 100000"}, 2,
    ),
    "v2, the group was removed but its ancestor limits": (
        ["0::/batch/job (deleted)"], [v2()], {"/sys/fs/cgroup/batch": "v2 200000 100000"}, 2,
    ),
    "v2, outside of the namespace": (
        ["0::/../../other"], [v2()],
        {"/sys/fs/cgroup": "v2 500000 100000", "/sys/fs/cgroup/other": "v2 100000 100000"}, 5,
    ),
    "v2, mounted from above the namespace": (
        ["0::/../job"], [v2("/..")], {"/sys/fs/cgroup/job": "v2 200000 100000"}, 2,
    ),
    "v2, mounted in an unusual place with a space": (
        ["0::/job"], [v2(point="/run/control\\040groups")], {"/run/control groups/job": "v2 200000 100000"}, 2,
    ),
    "v2, a path with a colon": (["0::/a:b:c"], [v2()], {"/sys/fs/cgroup/a:b:c": "v2 200000 100000"}, 2),
    "v1, the group itself": (
        ["4:cpu,cpuacct:/job"], [v1()], {"/sys/fs/cgroup/cpu,cpuacct/job": "v1 200000 100000"}, 2,
    ),
    "v1, no limit": (["4:cpu,cpuacct:/job"], [v1()], {"/sys/fs/cgroup/cpu,cpuacct/job": "v1 -1 100000"}, 0),
    "v1, only an ancestor": (
        ["4:cpu,cpuacct:/batch/job"], [v1()],
        {"/sys/fs/cgroup/cpu,cpuacct/batch": "v1 50000 25000", "/sys/fs/cgroup/cpu,cpuacct/batch/job": "v1 -1 1000"}, 2,
    ),
    "v1, the container's group is mounted, the path is the host's": (
        ["4:cpu,cpuacct:/docker/abc"], [v1("/docker/abc")], {"/sys/fs/cgroup/cpu,cpuacct": "v1 300000 100000"}, 3,
    ),
    "v1, another hierarchy's path does not count": (
        ["4:cpu:/job", "3:cpuset,cpuacct:/other"], [v1(point="/sys/fs/cgroup/cpu")],
        {"/sys/fs/cgroup/cpu/other": "v1 100000 100000", "/sys/fs/cgroup/cpu/job": "v1 400000 100000"}, 4,
    ),
    "v1 with v2 beside it": (
        ["4:cpu,cpuacct:/job", "0::/user.slice"], [v1(), v2(point="/sys/fs/cgroup/unified")],
        {"/sys/fs/cgroup/cpu,cpuacct/job": "v1 200000 100000"}, 2,
    ),
    "v1 and v2, the smaller": (
        ["4:cpu,cpuacct:/job", "0::/job"], [v1(), v2(point="/sys/fs/cgroup/unified")],
        {"/sys/fs/cgroup/cpu,cpuacct/job": "v1 500000 100000", "/sys/fs/cgroup/unified/job": "v2 300000 100000"}, 3,
    ),
    "the mount that shows the group, not another": (
        ["0::/job"], [v2("/elsewhere", "/mnt/elsewhere"), v2()],
        {"/mnt/elsewhere": "v2 100000 100000", "/sys/fs/cgroup/job": "v2 300000 100000"}, 3,
    ),
    "damaged files": (["0::/job"], [v2()], {"/sys/fs/cgroup/job": "v2 abc 0", "/sys/fs/cgroup": "v2 100000 0"}, 0),
}  # fmt: skip


@pytest.mark.guarantee("cpu-limits")
@pytest.mark.guarantee("nested-limits")
@pytest.mark.parametrize("case", CASES)
def test_the_smallest_quota_of_all_control_groups_applies(tmp_path: Path, case: str) -> None:
    groups, mounts, limits, expected = CASES[case]
    assert cgroup_quota(fake(tmp_path, groups, mounts, limits)) == expected


@pytest.mark.parametrize(
    ("folder", "limit"), [("sys/fs/cgroup", "v2 200000 100000"), ("sys/fs/cgroup/cpu", "v1 200000 100000")]
)
def test_the_usual_folders_are_read_if_proc_is_hidden(tmp_path: Path, folder: str, limit: str) -> None:
    write_limit(tmp_path / folder, limit)
    assert cgroup_quota(tmp_path) == 2


@pytest.mark.parametrize("content", ["", "\n", "7\n", "garbage\nmore - \n", "\x00\xff"])
def test_unknown_contents_of_proc_are_no_limit(tmp_path: Path, content: str) -> None:
    fake(tmp_path, [], [], {})
    for name in ("cgroup", "mountinfo"):
        (tmp_path / "proc/self" / name).write_text(content, encoding="latin-1")
    assert cgroup_quota(tmp_path) == 0
