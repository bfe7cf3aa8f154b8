# Sourced by `uml` and `qemu`: their command line, and the run directory that the guest reads.
#
# Options: -r DIR        what mkroot built (default: mkroot's own default; built now if need be)
#          -t SECONDS    kill the guest after that long (300); the exit status is then 124
#          -m MIB        the guest's memory (4096)
#          -o DIR        put here what the script leaves in /out, and the guest's console as console.log
#          -b SRC[:DST]  show the host's directory SRC in the guest at DST (default: the same path);
#                        up to ten times (UML: live and read-only; QEMU: a copy without .git)
#          -e VAR=VAL    set VAR for the script
# Environment: AGENT, CLIENT_AGENT, SERVER_AGENT and TB_* pass to the script by themselves; TB_BIND holds more
# SRC[:DST] for -b, separated by spaces.
#
# SCRIPT (a path, or a name in scenarios/) then runs in the guest as root with ARGS. Its stdout and stderr come
# back, and its exit status; 125: the guest did not start or died; 2: bad usage.
usage() {
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	sed -n '3,/^# back/s/^# \{0,1\}//p' "$HERE/common.sh" >&2
	exit 2
}
refuse_usage() {
	echo "${0##*/}: $* (-h explains)" >&2
	exit 2
}

parse() {	# MKROOT-OPTIONS -- ARGUMENTS: sets DIR PKI RUN KERNEL LIMIT MEM OUT SRCS
	local mkroot=()
	while [ "$1" != -- ]; do mkroot+=("$1"); shift; done
	shift
	DIR='' LIMIT=300 MEM=4096 OUT='' KERNEL=7 SRCS=()
	local option OPTIND=1 binds=() variables=()
	read -ra binds <<<"${TB_BIND:-}"
	while getopts r:t:m:o:b:e:k:h option; do
		case $option in
			r) DIR=$OPTARG ;;
			t) LIMIT=$OPTARG ;;
			m) MEM=$OPTARG ;;
			o) OUT=$OPTARG ;;
			k) KERNEL=$OPTARG ;;
			b) binds+=("$OPTARG") ;;
			e) variables+=("$OPTARG") ;;
			*) usage ;;
		esac
	done
	shift $((OPTIND - 1))
	[ $# -ge 1 ] || usage
	[ "$(id -u)" = 0 ] || refuse_usage "must be root"
	[ ${#binds[@]} -le 10 ] || refuse_usage "at most ten -b"
	local script=$1
	shift
	[ -e "$script" ] || script=$HERE/scenarios/$script
	[ -e "$script" ] || refuse_usage "no such script: $script"

	DIR=$("$HERE/mkroot" "${mkroot[@]}" ${DIR:+"$DIR"}) || exit 125
	PKI=$DIR/pki-$(sha256sum <"$HERE/guest/mkpki" | cut -c1-16)
	exec 8<"$DIR/.lock"
	flock -s 8	# a build or a removal of DIR waits until this guest has ended
	RUN=$(mktemp -d "${TMPDIR:-/tmp}/testbed.XXXXXX")
	mkdir "$RUN/out"
	trap 'rm -rf "$RUN"' EXIT
	install -m 755 "$script" "$RUN/script"
	printf '%q ' /host/run/script "$@" >"$RUN/cmd"
	write_environment "${variables[@]}"
	write_binds "${binds[@]}"
}

write_environment() {	# VAR=VAL...
	local v
	for v in AGENT CLIENT_AGENT SERVER_AGENT "${!TB_@}"; do
		[ -z "${!v+set}" ] || printf 'export %s=%q\n' "$v" "${!v}"
	done >"$RUN/env"
	for v; do printf 'export %s=%q\n' "${v%%=*}" "${v#*=}"; done >>"$RUN/env"
}

write_binds() {	# SRC[:DST]...: the guest's init reads lines "bN DST", N counting SRCS
	local b src
	for b; do
		src=$(cd "${b%%:*}" && pwd) || refuse_usage "no such directory: ${b%%:*}"
		case $b in
			*:*) echo "b${#SRCS[@]} ${b#*:}" ;;
			*) echo "b${#SRCS[@]} $src" ;;
		esac
		SRCS+=("$src")
	done >"$RUN/binds"
}

finish() {	# STATUS-OF-THE-MACHINE: keep /out and the console, exit as the script did
	if [ -n "$OUT" ]; then
		mkdir -p "$OUT"
		cp -a "$RUN/out/." "$OUT/"
		cp "$RUN/console.log" "$OUT/console.log"
	fi
	if [ "$1" = 124 ] || [ "$1" = 137 ]; then
		echo "${0##*/}: stopped after $LIMIT s" >&2
		exit 124
	fi
	[ ! -s "$RUN/out/.status" ] || exit "$(cat "$RUN/out/.status")"
	echo "${0##*/}: the guest ended without an exit status; the end of its console:" >&2
	tail -30 "$RUN/console.log" >&2
	exit 125
}
