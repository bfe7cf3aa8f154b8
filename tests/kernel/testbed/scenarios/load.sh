#!/bin/bash
# load.sh [OPTIONS of guest/load_nfsd.py]: handshake load on the server's agent. THREADS: nfsd's threads (64); each
# handshake in progress holds one of them, for 5 s at most. MTLS=1: the clients show a certificate. It measures:
# failed connections are in the table (see docs/kernel-tests.md for why some must fail), not in the exit status.
. /testbed/guest/lib.sh
setup_net
start_nfsd "${THREADS:-64}"
agent server "${CERTIFICATE:-server}" || exit 1
echo "# kernel $(uname -r) on $TB_VM, $(nproc) CPU, $(free -m | awk '/Mem/{print $2}') MiB, ${THREADS:-64} nfsd threads"
[ -z "${MTLS:-}" ] || set -- --cert /pki/client.pem --key /pki/client.key "$@"
cd /testbed
incli python3 -m guest.load_nfsd --total 10 --levels 1 >/dev/null	# warm up
incli python3 -m guest.load_nfsd --json /out/load.json "$@"
status=$?
echo "# agent: memory.peak $(agent_mem server) MiB, CPU $(agent_cpu server) s"
# (what nfsd does with a ClientHello when the kernel has no room for the request, or there is no agent)
echo "# ClientHellos taken for RPC records, at least: $(dmesg | grep -cE 'oversized RPC|fragment too large')"
exit $status
