"""The count of usable cores, over made-up /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfc.runtime import cores

V2_MOUNT = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "34 25 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6}, raising=False)


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _v2(root: Path, group: str, limits: dict[str, str], top: str = "/") -> Path:
    return _machine(
        root,
        {
            "proc/self/cgroup": f"0::{group}\n",
            "proc/self/mountinfo": V2_MOUNT.format(top=top),
            **{f"sys/fs/cgroup/{name}cpu.max": text for name, text in limits.items()},
        },
    )


def _v1(root: Path, quota: int, period: int = 100000) -> Path:
    folder = "sys/fs/cgroup/cpu,cpuacct/jobs"
    return _machine(
        root,
        {
            "proc/self/cgroup": "4:memory:/other\n3:cpu,cpuacct:/jobs\n0::/\n",
            "proc/self/mountinfo": V1_MOUNT.format(top="/"),
            f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
            f"{folder}/cpu.cfs_period_us": f"{period}\n",
        },
    )


def test_v2_quota_is_read_from_the_group_of_the_process(tmp_path: Path) -> None:
    root = _v2(tmp_path, "/a/b", {"a/b/": "150000 100000\n"})
    assert cores.cgroup_quota(root) == 1.5


def test_v2_quota_of_an_ancestor_counts_when_it_is_tighter(tmp_path: Path) -> None:
    root = _v2(tmp_path, "/a/b", {"a/b/": "400000 100000\n", "a/": "200000 100000\n"})
    assert cores.cgroup_quota(root) == 2.0


def test_v2_max_is_no_quota(tmp_path: Path) -> None:
    assert cores.cgroup_quota(_v2(tmp_path, "/a", {"a/": "max 100000\n"})) is None


def test_v2_mount_of_a_subtree_is_entered_below_its_top(tmp_path: Path) -> None:
    root = _v2(tmp_path, "/pod/box", {"box/": "300000 100000\n"}, top="/pod")
    assert cores.cgroup_quota(root) == 3.0


@pytest.mark.parametrize("group", ["/host/name/of/it", "/../../outside"])
def test_group_outside_of_the_mount_is_the_mount_point(tmp_path: Path, group: str) -> None:
    root = _v2(tmp_path, group, {"": "100000 100000\n"}, top="/pod")
    assert cores.cgroup_quota(root) == 1.0


def test_v1_quota_is_read_from_the_cpu_controller(tmp_path: Path) -> None:
    assert cores.cgroup_quota(_v1(tmp_path, 250000)) == 2.5


def test_v1_quota_of_minus_one_is_no_quota(tmp_path: Path) -> None:
    assert cores.cgroup_quota(_v1(tmp_path, -1)) is None


def test_mount_point_with_a_space_is_unescaped(tmp_path: Path) -> None:
    root = _machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "1 1 0:1 / /my\\040cgroup rw - cgroup2 none rw\n",
            "my cgroup/cpu.max": "100000 50000\n",
        },
    )
    assert cores.cgroup_quota(root) == 2.0


@pytest.mark.parametrize("text", ["", "one two\n", "100000\n", "100000 0\n", "1 2 3\n"])
def test_damaged_quota_is_no_quota(tmp_path: Path, text: str) -> None:
    assert cores.cgroup_quota(_v2(tmp_path, "/a", {"a/": text})) is None


def test_system_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert cores.cgroup_quota(tmp_path) is None


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("quota", "expected"), [("max", 4), ("50000", 1), ("150000", 2), ("900000", 4)]
)
def test_quota_is_rounded_up_and_bounded_by_affinity(
    tmp_path: Path, quota: str, expected: int
) -> None:
    root = _v2(tmp_path, "/a", {"a/": f"{quota} 100000\n"})
    assert cores.usable_cores({}, root) == expected


@pytest.mark.usefixtures("four_cores")
def test_threads_variable_overrides_affinity_and_quota(tmp_path: Path) -> None:
    root = _v2(tmp_path, "/a", {"a/": "100000 100000\n"})
    assert cores.usable_cores({"TFC_THREADS": " 7 "}, root) == 7


@pytest.mark.usefixtures("four_cores")
def test_empty_threads_variable_is_ignored(tmp_path: Path) -> None:
    assert cores.usable_cores({"TFC_THREADS": ""}, tmp_path) == 4


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "²"])
def test_threads_variable_that_is_no_positive_integer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"TFC_THREADS is .*must be a positive integer"):
        cores.usable_cores({"TFC_THREADS": text})


def test_system_without_affinity_counts_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.affinity_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.affinity_cores() == 1


def test_this_machine_has_at_least_one_core_and_no_more_than_affinity() -> None:
    assert 1 <= cores.usable_cores({}) <= cores.affinity_cores()
