"""GnuTLS's own benchmark of handshakes in memory, both ends in one process: the wall clock, and its own choice of cases."""

import shutil
import subprocess


def benchmark() -> str:
    """Run it; what it prints, or why there is nothing."""
    if shutil.which("gnutls-cli") is None:
        return "no benchmark of GnuTLS: gnutls-cli is not installed"
    done = subprocess.run(
        ["gnutls-cli", "--benchmark-tls-kx"], capture_output=True, text=True, check=False, timeout=600
    )
    return f"GnuTLS (gnutls-cli --benchmark-tls-kx):\n{done.stdout.strip()}"
