#!/bin/bash
# interop.sh: the agent under test and tlshd, each in its own network name space, in both directions.
. /testbed/guest/lib.sh
setup_net
start_nfsd
tested_client=${CLIENT_AGENT:-${AGENT:-tlshd}}
tested_server=${SERVER_AGENT:-${AGENT:-tlshd}}
for role in client server; do
	CLIENT_AGENT=tlshd SERVER_AGENT=tlshd
	tested=tested_$role
	declare "${role^^}_AGENT=${!tested}"
	agent server && agent client || done_testing
	transfer "tested $role tls" 4.2 tls 1
	transfer "tested $role mtls" 4.2 mtls 8
	transfer "tested $role NFS 3" 3 mtls 1
done
done_testing
