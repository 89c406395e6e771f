"""The unit tests and some notebooks again, under the arithmetic of other processors: `make test-machines`.

Which instructions torch and its libraries use is set by the environment, so one machine can stand in for several. Last
digits differ between them. The tests of the tests, of the command's kills and of memory are not repeated; notebooks run
as a whole, with the bands that their cells assert, while what they print is compared on the machine's own arithmetic.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2"}
PLAIN = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41"}
X86 = {"no vectors": PLAIN | {"OMP_NUM_THREADS": "1"}, "AVX2": AVX2 | {"OMP_NUM_THREADS": "1"}}
EVERYWHERE = {"four threads": {"OMP_NUM_THREADS": "4"}}
SKIPPED = ["test_mutants", "test_memory", "test_main", "test_notebooks", "test_notebook_rules", "test_package"]
# They start many processes, or read pages: no arithmetic of their own.
SKIPPED += ["test_doctor", "test_grade", "test_grade_answers", "test_handout", "test_hosted"]
SKIPPED += ["test_distributed", "test_lab", "test_ledger", "test_peers", "test_scale", "test_site", "test_teaching"]
SKIPPED += ["test_workflows"]
NOTEBOOKS = ["00_start_here", "04_fisher_information", "09_your_own_model"]


def main() -> int:
    """Run pytest once a setting; the exit code is 1 if one of them failed."""
    settings = dict(EVERYWHERE)
    if platform.machine().lower() in ("x86_64", "amd64"):
        settings = EVERYWHERE | X86
    else:
        print(f"{platform.machine()}: {', '.join(X86)} need an x86 processor, and are left out")
    failed = []
    for name, environment in settings.items():
        print(f"\n== {name}: {' '.join(f'{k}={v}' for k, v in environment.items())}", flush=True)
        unit = ["tests", *(f"--ignore=tests/{test}.py" for test in SKIPPED)]
        notebooks = ["--nbval-lax", "-o", "addopts=", *(f"notebooks/{notebook}.ipynb" for notebook in NOTEBOOKS)]
        workers = [] if "4" in environment.values() else ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]
        for tests in [unit] if name in EVERYWHERE else [unit, notebooks]:  # threads change no notebook's bands
            command = [sys.executable, "-m", "pytest", "-q", "--no-header", *workers, *tests]
            if subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode:
                failed.append(name)
    print(f"\nfailed: {', '.join(failed)}" if failed else f"\nall passed: {', '.join(settings)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
