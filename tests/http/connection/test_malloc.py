"""The allocator keeps what was freed: no page is fresh twice."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from normtree.http.connection.malloc import keep_freed_memory
assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def allocate():
    for _ in range(200):
        del_me = bytes(256_000)
allocate()
before = faults()
allocate()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_pieces_of_a_body_cost_no_fresh_pages() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200 * 62 / 10  # a buffer has 62 pages
