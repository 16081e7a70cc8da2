"""Before any test imports torch: one thread, so that tests beside each other do not thrash."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
