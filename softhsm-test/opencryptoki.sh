#!/usr/bin/env bash
# The soft token of opencryptoki, and the daemon that it needs. Both belong to the machine: paths are compiled into the
# module, so DIR holds only the PINs, and whoever runs this at the same time gets the same token. Needs root.
#
#   eval "$(softhsm-test/opencryptoki.sh /tmp/ock)"
#   pkcs11-tool --module "$HSM_MODULE" -L
#   softhsm-test/opencryptoki.sh /tmp/ock wipe    # initialise the token anew: every object is gone
#   softhsm-test/opencryptoki.sh /tmp/ock stop    # end the daemon, if this script started it
#
# A token that another hand initialised, or that was left half-way, is made new by removing the files under
# /var/lib/opencryptoki/swtok and /dev/shm/var.lib.opencryptoki.swtok while no daemon runs. To clean up: stop, then remove DIR.
usage='DIR [wipe|stop]'
. "$(dirname -- "${BASH_SOURCE[0]}")/part.sh"

need pkcsslotd
need pkcsconf
need flock
need fuser
dir=$(part_dir "${1:-}")
action=${2:-start}
module=$(library pkcs11/libopencryptoki.so)
label=keywright-ock
started=/run/keywright-pkcsslotd.pid

[ "$(id -u)" -eq 0 ] || die 'needs root: the slot daemon and its directories belong to root'
exec 9>/run/lock/keywright-opencryptoki
flock -w 60 9 || die 'another run holds the lock for a minute'

running() {
  local pid
  pid=$(cat /run/pkcsslotd.pid 2>/dev/null) && [ "$(cat "/proc/${pid:-0}/comm" 2>/dev/null)" = pkcsslotd ]
}

if [ "$action" = stop ]; then
  pid=$(cat "$started" 2>/dev/null) || exit 0
  if running && [ "$(cat /run/pkcsslotd.pid)" = "$pid" ]; then
    kill "$pid"
    for _ in $(seq 100); do running || break; sleep 0.05; done
  fi
  rm -f "$started"
  exit 0
fi

if ! running; then
  # /run is empty after a start of the machine; Debian's init script makes these too.
  mkdir -p /run/lock/opencryptoki/{swtok,icsf,tpm,lite,ccatok,ep11tok}
  chgrp -R pkcs11 /run/lock/opencryptoki
  chmod -R 0770 /run/lock/opencryptoki
  rm -f /run/pkcsslotd.socket
  pkcsslotd 9>&- >/dev/null 2>&1 </dev/null || die 'pkcsslotd does not start'
  for _ in $(seq 100); do [ -S /run/pkcsslotd.socket ] && running && break; sleep 0.05; done
  running || die 'pkcsslotd ended at once; its messages are in syslog'
  cp /run/pkcsslotd.pid "$started"
fi

keep "$dir/pin" '' 648219
keep "$dir/so-pin" '' 97531086

# The soft token's slot and what pkcsconf says of it. The slot is found by the token's model: its number follows
# /etc/opencryptoki/opencryptoki.conf. A daemon that has just started, or is ending, may refuse for a moment.
look() {
  local all
  for _ in $(seq 50); do
    if all=$(pkcsconf -t 2>&1); then
      slot=$(awk '/^Token #/ { sub(/#/, "", $2); slot = $2 } /Model: IBM SoftTok/ { print slot; exit }' <<<"$all")
      [ -n "$slot" ] || die 'opencryptoki shows no soft token'
      token=$(awk -v want="#$slot" '/^Token #/ { ours = $2 == want } ours' <<<"$all")
      return
    fi
    sleep 0.1
  done
  die "pkcsconf cannot reach the daemon: $all"
}
says() { # word...: whether the token's description has them all
  local word
  for word in "$@"; do [[ $token == *"$word"* ]] || return 1; done
}

# C_InitToken is no way back: 3.8 leaves a token that its SO cannot log into, unless the SO's PIN is still the one of the
# factory, which cannot be set again. So the token's files go, and its shared memory; the module makes them anew.
look
if [ "$action" = wipe ] && says "Label: $label"; then
  ! fuser -s /dev/shm/var.lib.opencryptoki.swtok 2>/dev/null || die 'the token is in use'
  find /var/lib/opencryptoki/swtok -type f -delete
  rm -f /dev/shm/var.lib.opencryptoki.swtok
  look
fi
if ! says "Label: $label" USER_PIN_INITIALIZED; then
  so=$(cat "$dir/so-pin")
  # A new token's SO PIN is 87654321. Both PINs have to be changed before use.
  log=$(
    {
      printf '87654321\n%s\n' "$label" | pkcsconf -I -c "$slot" &&
        pkcsconf -P -c "$slot" -S 87654321 -n "$so" &&
        pkcsconf -u -c "$slot" -S "$so" -n 12345678 &&
        pkcsconf -p -c "$slot" -U 12345678 -n "$(cat "$dir/pin")"
    } 2>&1
  ) || die "another hand initialised the token, or it was left half-way (see the head of this script): $log"
fi

describe "$module" "$label" 123 "$dir/pin" "$dir/so-pin"
