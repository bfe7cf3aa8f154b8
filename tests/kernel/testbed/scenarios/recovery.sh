#!/bin/bash
# recovery.sh: agents that are absent, die or hang, and peers that give up in mid-handshake.
. /testbed/guest/lib.sh
setup_net
start_nfsd
agent server && agent client || done_testing
mute=20490
settle() {	# fresh agents that have done a handshake each: what they have open now is what they keep
	agent server
	agent client
	nfs_mount 4.2 xprtsec=tls && umount /mnt
	# An earlier mount's connection, whose client is gone, may still be handshaking: nfsd waits 5 s for it.
	until_ok 15 idle server
	until_ok 15 idle client
	sleep 1
}

begin_mount() {	# OPTIONS: in the background; its process is MOUNT
	nfs_mount 4.2 "$1" >$T/mount 2>&1 &
	MOUNT=$!
}
end_mount() {	# the kernel may go on trying for the dead process; what it mounted goes
	pkill -KILL mount.nfs
	wait $MOUNT
	! mountpoint -q /mnt || umount -f /mnt
}
step "first mount" nfs_mount 4.2 xprtsec=tls && umount /mnt

# An agent is killed in mid-handshake, which the other one's silence prolongs.
for victim in client server; do
	other=$([ $victim = client ] && echo server || echo client)
	settle
	signal_agent STOP $other
	begin_mount xprtsec=tls
	step "$victim agent in a handshake" until_ok 8 handshaking $victim
	step "$victim agent killed" kill_agent $victim
	signal_agent CONT $other
	agent $victim
	end_mount
	step "mount after the $victim agent's death" mount_and_use 4.2 xprtsec=tls && umount /mnt
done

# A peer that falls silent: a server that says no more than STARTTLS, a client that stops in the middle of its
# ClientHello. The kernel's client then gives up after 10 s and nfsd after 5 s. An agent may give up by itself before;
# so that the kernel is first, the agent is held for some seconds ("late"), which the kernel counts and the agent
# does not.
hold() { [ "$2" = 0 ] || signal_agent STOP "$1"; }	# ROLE SECONDS
let_go() { [ "$2" = 0 ] || { sleep "$2"; signal_agent CONT "$1"; }; }	# ROLE SECONDS
settle
python3 /testbed/guest/rpc_tls.py mute-server $mute &
server=$!
until_ok 5 eval "ss -Hltn 'sport = :$mute' | grep -q ."
for delay in 0 3; do
	name=$([ $delay = 0 ] || echo "late ")client
	before=$(agent_fds client)
	hold client $delay
	begin_mount xprtsec=tls,port=$mute
	let_go client $delay
	step "$name: server is silent" until_ok 8 handshaking client
	pkill -KILL mount.nfs	# (so that it does not try again)
	step "$name: over" until_fds client "$before" 15
	end_mount
done
kill $server

half_hello() { incli python3 /testbed/guest/rpc_tls.py half-hello 10.9.0.1 "$1" & }	# silent|close
settle
for delay in 0 2; do
	name=$([ $delay = 0 ] || echo "late ")server
	before=$(agent_fds server)
	hold server $delay
	half_hello silent
	peer=$!
	let_go server $delay
	step "$name: client is silent" until_ok 8 handshaking server
	step "$name: over" until_fds server "$before" 10
	wait $peer
done
half_hello close
wait $!
step "server: client hangs up" until_fds server "$before" 10
step "mount after the cancelled handshakes" mount_and_use 4.2 xprtsec=tls && umount /mnt

stop_agent client
refuse "no client agent" nfs_mount 4.2 xprtsec=tls
agent client
step "client agent back" mount_and_use 4.2 xprtsec=tls && umount /mnt
# With no agent nfsd still says STARTTLS, then takes the ClientHello for an RPC record and closes; the client tries
# again at once, hundreds of times, until its transport stalls for good: that mount is then beyond help.
stop_agent server
begin_mount xprtsec=tls
sleep 2
step "no server agent" bash -c '! mountpoint -q /mnt'
agent server
end_mount
step "server agent back" mount_and_use 4.2 xprtsec=tls && umount /mnt
done_testing
