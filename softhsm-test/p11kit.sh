#!/usr/bin/env bash
# A SoftHSM token behind p11-kit's server: the HSM on the network that goes away. The module to load is p11-kit's client,
# which talks to the server over the Unix socket DIR/socket.
#
#   eval "$(softhsm-test/p11kit.sh /tmp/p11)"          # start
#   pkcs11-tool --module "$HSM_MODULE" -L
#   softhsm-test/p11kit.sh /tmp/p11 stop               # end the server; the token stays
#
# HSM_SERVER_PID leads a process group of its own, the server and its child per connection: `kill -STOP -- -$HSM_SERVER_PID`
# freezes them all, as a dead network does. To clean up: stop, then remove DIR.
usage='DIR [start|stop]'
here=$(dirname -- "${BASH_SOURCE[0]}")
. "$here/part.sh"

need p11-kit
need setsid
dir=$(part_dir "${1:-}")
client=$(library pkcs11/p11-kit-client.so)
socket=$dir/socket
# The kernel takes 107 characters.
[ ${#socket} -le 107 ] || die "the socket's path is too long: $socket"

# The server's pid, if it is ours and alive.
server() {
  local pid
  pid=$(cat "$dir/server.pid" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$socket" && printf '%s' "$pid"
}

if [ "${2:-start}" = stop ]; then
  if pid=$(server); then
    kill -KILL -- "-$pid" 2>/dev/null || true # a frozen one takes no other signal
    for _ in $(seq 100); do server >/dev/null || break; sleep 0.02; done
  fi
  rm -f "$socket" "$dir/server.pid"
  exit 0
fi

eval "$("$here/softhsm.sh" "$dir/softhsm")"
if ! pid=$(server); then
  rm -f "$socket"
  SOFTHSM2_CONF=$SOFTHSM2_CONF setsid p11-kit server -f -n "$socket" --provider "$HSM_MODULE" \
    "pkcs11:serial=$HSM_SERIAL" >"$dir/server.log" 2>&1 </dev/null &
  printf '%s' $! >"$dir/server.pid"
  for _ in $(seq 250); do [ -S "$socket" ] && break; sleep 0.02; done
  if [ ! -S "$socket" ] || ! pid=$(server); then die "the server does not come up: $(cat "$dir/server.log")"; fi
fi

say_env P11_KIT_SERVER_ADDRESS "unix:path=$socket"
# The client reads its configuration for itself too; it shall not pick up the machine's or the user's modules.
describe "$client" "$HSM_LABEL" "$HSM_SERIAL" "$HSM_PIN_FILE" "$HSM_SOPIN_FILE"
say HSM_SERVER_PID "$pid"
