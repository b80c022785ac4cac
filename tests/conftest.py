"""The environment every test runs in: one thread a process, no network, nobody's cache."""

import gc
import os
import tempfile


# Set before torch and the Hugging Face libraries read them, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"  # the workers already fill the cores; and sums depend on the number of threads
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "warning"
os.environ["MPLBACKEND"] = "Agg"

# One empty cache for the whole session: a stale entry of an earlier run must not let a test pass.
if "PYTEST_XDIST_WORKER" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="data2vec-tests-")  # removed when the process ends
    os.environ["HF_HOME"] = cache.name
    os.environ["DATA2VEC_CACHE"] = os.path.join(cache.name, "data2vec")
    os.environ.pop("HF_DATASETS_CACHE", None)
    os.environ.pop("HF_HUB_CACHE", None)


def pytest_collection_finish() -> None:
    """Leave what has been imported out of every later garbage collection: each `Trainer.train` begins with one."""
    gc.collect()
    gc.freeze()
