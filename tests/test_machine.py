"""What this machine has, as its kernel's files say."""

from pathlib import Path

import pytest

from mixtral import machine


@pytest.mark.parametrize(
    ("folder", "limit", "used", "field"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_cached_file_pages_of_a_control_group_are_free(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    limit: str,
    used: str,
    field: str,
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_meminfo_bytes", lambda name: 100_000)
    assert machine.available_memory_bytes() == 100_000
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / limit).write_text("20000\n")
    (group / used).write_text("15000\n")
    assert machine.available_memory_bytes() == 5000
    (group / "memory.stat").write_text(f"anon 3000\nactive_file 2000\n{field} 9000\n")
    assert machine.available_memory_bytes() == 14_000
    (group / limit).write_text("max\n")
    assert machine.available_memory_bytes() == 100_000
