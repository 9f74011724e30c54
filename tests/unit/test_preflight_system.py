"""Shared memory, limits, caches, and the settings of NCCL and MPI."""

from __future__ import annotations

import pytest

from nemo_mm_align.preflight import system
from nemo_mm_align.preflight.finding import Level
from tests.unit.finding_levels import levels


def test_shared_memory():
    assert system.check_shared_memory(2**34, True).level == Level.GREEN
    assert system.check_shared_memory(2**29, True).level == Level.AMBER
    assert system.check_shared_memory(2**26, True).level == Level.RED
    assert system.check_shared_memory(2**26, False).level == Level.AMBER


@pytest.mark.parametrize(
    ("files", "locked", "processes", "infiniband", "expected"),
    [
        (65536, -1, -1, True, ["GREEN"]),
        (65536, 65536, -1, False, ["GREEN"]),
        (65536, 65536, -1, True, ["AMBER"]),
        (1024, -1, 1000, False, ["AMBER", "AMBER"]),
        (256, -1, -1, False, ["RED"]),
        (-1, -1, -1, True, ["GREEN"]),
    ],
)
def test_limits(files, locked, processes, infiniband, expected):
    limits = {"files": files, "locked_memory": locked, "processes": processes}
    assert levels(system.check_limits(limits, infiniband)) == expected


def test_caches(tmp_path):
    assert system.check_caches({"HOME": str(tmp_path)}).level == Level.GREEN
    closed = system.check_caches({"HOME": str(tmp_path), "TRITON_CACHE_DIR": "/proc/version/triton"})
    assert closed.level == Level.AMBER and "TRITON_CACHE_DIR (/proc/version/triton)" in closed.detail


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["GREEN"]),
        ({"NCCL_SOCKET_IFNAME": "eth"}, ["GREEN"]),
        ({"NCCL_SOCKET_IFNAME": "^docker,lo"}, ["GREEN"]),
        ({"NCCL_SOCKET_IFNAME": "=eth"}, ["RED"]),
        ({"NCCL_SOCKET_IFNAME": "ib0"}, ["RED"]),
        ({"NCCL_TOPO_FILE": "/nowhere.xml"}, ["RED"]),
        ({"NCCL_P2P_DISABLE": "1", "NCCL_DEBUG": "INFO"}, ["AMBER", "AMBER"]),
        ({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}, ["AMBER"]),
    ],
)
def test_nccl(variables, expected):
    assert levels(system.check_nccl(variables, ["eth0", "lo"], ["mlx5_0"], True, 2)) == expected


def test_nodes_without_a_fast_network():
    (finding,) = system.check_nccl({}, ["eth0"], [], True, 2)
    assert finding.level == Level.AMBER and "TCP" in finding.detail
    assert levels(system.check_nccl({}, ["eth0"], [], True, 1)) == ["GREEN"]


def test_connections():
    assert system.check_connections({}, 9.0, 1) is None
    assert system.check_connections({}, 10.0, 8) is None
    assert system.check_connections({"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, 9.0, 8) is None
    assert system.check_connections({}, 9.0, 8).level == Level.AMBER


def test_mpi():
    assert system.check_mpi({}, None, None) is None
    assert system.check_mpi({}, "MPI plugin types are...\nnone\npmix", "none").level == Level.GREEN
    assert system.check_mpi({}, "none pmix", "pmix").level == Level.AMBER
    assert system.check_mpi({"SLURM_MPI_TYPE": "pmix_v4"}, None, None).level == Level.AMBER
