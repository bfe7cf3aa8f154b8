#!/bin/bash
# nfs.sh: what must work. NFS 4.2 and 3, xprtsec=tls and mtls, with one connection and with eight.
. /testbed/guest/lib.sh
setup_net
start_nfsd
agent server && agent client || done_testing
step "first mount" nfs_mount 4.2 xprtsec=tls && umount /mnt
sleep 1
fds_client=$(agent_fds client) fds_server=$(agent_fds server)
for version in 4.2 3; do
	for security in tls mtls; do
		for connections in 1 8; do
			transfer "$version $security $connections" $version $security $connections
		done
	done
done
export_as tls:mtls
step "by address" nfs_mount 4.2 xprtsec=tls 10.9.0.1 && umount /mnt
for role in client server; do
	before=fds_$role
	step "$role agent leaves nothing open" until_fds $role "${!before}" 5
done
done_testing
