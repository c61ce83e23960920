#!/usr/bin/env bash
# Makes what compose.yaml needs beside it and nobody else may read: .state/ with the secrets and the nodes' folders, and .env with the user that they belong
# to. What is there already stays. Run it once, as the user who runs Compose: secrets.sh [NAME…], with the names by which clients will reach the balancer.
set -euo pipefail
cd -- "$(dirname -- "$0")"
umask 077
names=(localhost keywright node1 node2 balancer "$@")

# The container's user: you, or, for root, the image's own.
uid=$(id -u) gid=$(id -g)
if [ "$uid" -eq 0 ]; then uid=10001 gid=10001; fi

s=.state/secrets
mkdir -p "$s" .state/node1 .state/node2
# A line of 256 random bits.
line() { [ -s "$1" ] || openssl rand -base64 32 >"$1"; }
line "$s/root-passphrase"
line "$s/db-password"
line "$s/db-admin-password"
line "$s/grafana-password"

pair() { # NAME SUBJECT ALTERNATIVE-NAMES: a key and a certificate of our own authority
  [ -s "$s/$1.crt" ] && return
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$s/$1.key" -out "$s/$1.csr" 2>/dev/null
  openssl x509 -req -in "$s/$1.csr" -CA "$s/ca.pem" -CAkey .state/ca.key -CAcreateserial -days 825 -out "$s/$1.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n' "$3") 2>/dev/null
  rm -f "$s/$1.csr"
}
if [ ! -s "$s/ca.pem" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=Keywright Compose' -days 3650 \
    -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout .state/ca.key -out "$s/ca.pem" 2>/dev/null
fi
alternatives=IP:127.0.0.1$(printf ',DNS:%s' "${names[@]}")
pair tls keywright "$alternatives"
pair db postgres DNS:postgres,DNS:localhost
rm -f "$s"/*.srl

# What containers read belongs to their user; the authority's key stays yours.
chmod 0400 "$s"/*
chmod 0444 "$s/ca.pem" "$s"/*.crt
chmod 0711 .state "$s"
[ "$(id -u)" -ne 0 ] || chown "$uid:$gid" "$s"/* .state/node1 .state/node2
cat >.env <<TXT
KEYWRIGHT_UID=$uid
KEYWRIGHT_GID=$gid
TXT
echo "made: .state and .env. Keep .state/secrets/root-passphrase somewhere else too: with it lost, so are the keys."
