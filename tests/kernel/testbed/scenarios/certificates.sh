#!/bin/bash
# certificates.sh: whom an agent accepts and whom it refuses. A refused mount must fail by itself, and soon.
. /testbed/guest/lib.sh
setup_net
start_nfsd
agent server && agent client || done_testing

# What has nothing wrong with its certificates
export_as mtls
refuse "xprtsec=tls on an mtls export" mount_and_use 4.2 xprtsec=tls
export_as tls:mtls
refuse "no TLS on a TLS export" mount_and_use 4.2 xprtsec=none
refuse "another host's name" nfs_mount 4.2 xprtsec=tls alias.test

for certificate in server-expired server-future server-name server-otherca server-eku-client server-eku-code; do
	agent server $certificate
	refuse "$certificate" nfs_mount 4.2 xprtsec=tls
done
for certificate in server-rsa server-rpc; do
	agent server $certificate
	step "$certificate" nfs_mount 4.2 xprtsec=tls && umount /mnt
done
agent server

export_as mtls
for certificate in client-expired client-otherca client-eku-code; do
	agent client $certificate
	refuse "$certificate" mount_and_use 4.2 xprtsec=mtls
done
agent client -
refuse "no client certificate" mount_and_use 4.2 xprtsec=mtls
for certificate in client-rsa client-rpc; do
	agent client $certificate
	step "$certificate" mount_and_use 4.2 xprtsec=mtls && umount /mnt
done
agent client
step "the right ones again" mount_and_use 4.2 xprtsec=mtls && umount /mnt
done_testing
