#!/usr/bin/env bash
# A TPM 2.0 in software, swtpm, on a Unix socket (DIR/socket) or a TCP port of 127.0.0.1. Its control channel is DIR/socket.ctrl, where tpm2-tools look for it.
#
#   eval "$(softhsm-test/swtpm.sh /tmp/tpm)"                 # start; on TCP: swtpm.sh /tmp/tpm start 2321
#   bin/keywright tpm info --uri "$TPM_URI"
#   softhsm-test/swtpm.sh /tmp/tpm cycle                     # power off and on, the process stays
#   softhsm-test/swtpm.sh /tmp/tpm stop                      # end the process; the TPM's memory stays
#
# The first start makes endorsement keys (RSA 2048, P-384) with certificates of a local authority (DIR/ca), as a vendor does; with an
# empty directory DIR/state there already it leaves that out, which is faster. Run twice it changes nothing. To clean up: stop, then
# remove DIR.
usage='DIR [start [PORT]|cycle|stop]'
here=$(dirname -- "${BASH_SOURCE[0]}")
. "$here/part.sh"

need swtpm
need swtpm_setup
need swtpm_ioctl
dir=$(part_dir "${1:-}")
socket=$dir/socket control=$dir/socket.ctrl
# The kernel takes 107 characters.
[ ${#control} -le 107 ] || die "the socket's path is too long: $control"

# The pid of the swtpm, if it is ours and alive.
tpm() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$control" && printf '%s' "$pid"
}

case ${2:-start} in
cycle)
  tpm >/dev/null || die 'it does not run'
  swtpm_ioctl --unix "$control" -i
  exit
  ;;
stop)
  if pid=$(tpm); then
    kill -KILL "$pid" 2>/dev/null || true # what it has in its memory is written when a command ends
    for _ in $(seq 100); do tpm >/dev/null || break; sleep 0.02; done
  fi
  rm -f "$socket" "$control" "$dir/pid"
  exit
  ;;
start) ;;
*) die "usage: ${0##*/} $usage" ;;
esac

state=$dir/state
if [ ! -d "$state" ]; then
  # The authority's files stay here: the machine's own would need root.
  mkdir -p "$dir/ca" "$dir/new"
  printf 'statedir = %s\nsigningkey = %s\nissuercert = %s\ncertserial = %s\n' \
    "$dir/ca" "$dir/ca/signkey.pem" "$dir/ca/issuercert.pem" "$dir/ca/certserial" >"$dir/ca/localca.conf"
  printf -- '--tpm-manufacturer IBM\n--tpm-model swtpm\n--tpm-version 2\n--platform-manufacturer keywright\n--platform-version 1\n--platform-model test\n' \
    >"$dir/ca/localca.options"
  printf 'create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n' \
    "$(command -v swtpm_localca || first_of /usr/share/swtpm/swtpm-localca /usr/bin/swtpm_localca)" "$dir/ca/localca.conf" "$dir/ca/localca.options" >"$dir/ca/setup.conf"
  swtpm_setup --tpm2 --tpmstate "$dir/new" --config "$dir/ca/setup.conf" --ecc --create-ek-cert --lock-nvram --overwrite \
    --pcr-banks sha256 >"$dir/setup.log" 2>&1 || die "swtpm_setup failed: $(tail -n 5 "$dir/setup.log")"
  mv "$dir/new" "$state"
fi

if ! pid=$(tpm); then
  rm -f "$socket" "$control"
  server=type=unixio,path=$socket
  if [ -n "${3:-}" ]; then
    [[ $3 =~ ^[0-9]+$ ]] || die "usage: ${0##*/} $usage"
    server=type=tcp,port=$3
  fi
  printf '%s' "${3:-}" >"$dir/port"
  swtpm socket --tpm2 --tpmstate "dir=$state" --server "$server" --ctrl "type=unixio,path=$control" \
    --flags not-need-init,startup-clear --pid "file=$dir/pid" --daemon >"$dir/log" 2>&1 </dev/null || die "swtpm does not start: $(cat "$dir/log")"
  for _ in $(seq 250); do [ -S "$control" ] && pid=$(tpm) && break; sleep 0.02; done
  [ -n "$pid" ] || die "swtpm does not come up: $(cat "$dir/log")"
fi

port=$(cat "$dir/port")
if [ -n "$port" ]; then
  say TPM_URI "tpm:tcp:127.0.0.1:$port"
else
  say TPM_URI "tpm:unix:$socket"
fi
say TPM_PID "$pid"
say TPM_CONTROL "$control"
say TPM_CA "$dir/ca/issuercert.pem"
