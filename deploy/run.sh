#!/usr/bin/env bash
# run.sh BINARY DATA HOST:PORT [FLAGS of serve]   starts the embedded default, shows its main job, leaves it running
# run.sh --stop DATA                              ends it
set -euo pipefail

if [ "$1" = --stop ]; then
  pidfile="$2/keywright.pid"
  if [ -f "$pidfile" ] && kill "$(cat "$pidfile")" 2>/dev/null; then
    while kill -0 "$(cat "$pidfile")" 2>/dev/null; do sleep 0.1; done
    echo "stopped; the data stays in $2"
  else
    echo "not running"
  fi
  rm -f "$pidfile"
  exit 0
fi

binary=$1 data=$2 listen=$3
shift 3
mkdir -p "$data"
chmod 700 "$data"
pidfile="$data/keywright.pid" log="$data/keywright.log"

if [ -f "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; then
  echo "Keywright runs already (process $(cat "$pidfile")); make stop ends it."
else
  rm -f "$data/address"
  setsid "$binary" serve --dev --data "$data" --listen "$listen" "$@" >>"$log" 2>&1 </dev/null &
  echo $! >"$pidfile"
fi

for _ in $(seq 100); do
  [ -s "$data/address" ] && [ -s "$data/owner.key" ] &&
    KEYWRIGHT_ADDR="http://$(cat "$data/address")" "$binary" health >/dev/null 2>&1 && break
  if ! kill -0 "$(cat "$pidfile")" 2>/dev/null; then
    echo "Keywright did not start:" >&2
    tail -n 5 "$log" >&2
    exit 1
  fi
  sleep 0.1
done

export KEYWRIGHT_ADDR="http://$(cat "$data/address")" KEYWRIGHT_API_KEY_FILE="$data/owner.key"
"$(dirname "$0")/tour.sh" "$binary"

cat <<TXT

Keywright is running.
  address           $KEYWRIGHT_ADDR
  owner's API key   $data/owner.key
  log               $log
  API reference     $KEYWRIGHT_ADDR/docs
  to use the CLI    export KEYWRIGHT_ADDR=$KEYWRIGHT_ADDR KEYWRIGHT_API_KEY_FILE=$(realpath "$data/owner.key")
  to stop it        make stop
TXT
