"""Batches as tasks of dask."""

import pytest

from m3pot.relaxation import Options
from tests.relaxation.helpers import morse, problems

pytest.importorskip("distributed")


@pytest.mark.filterwarnings("ignore")
def test_results_of_a_cluster_are_those_of_this_process():
    from dask.distributed import LocalCluster

    from m3pot.relaxation import relax
    from m3pot.relaxation.cluster import relax_on_cluster

    options = Options(fmax=0.02, smax=2e-4, dtype="float64", max_edges=1024)
    structures = list(problems().values())
    here = relax(structures, morse(), fmax=0.02, smax=2e-4, dtype="float64", max_edges=1024)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        there = sorted(
            relax_on_cluster(enumerate(structures), morse(), options, cluster, batch=3), key=lambda r: r.index
        )
    assert [result.status for result in there] == [result.status for result in here]
    for a, b in zip(here, there, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-8)
