#!/usr/bin/env bash
# tour.sh BINARY   shows the main job of a running service, each step with the command that does it.
# It takes the address and the API key from the environment, as the commands do.
set -euo pipefail

keywright=$1
stamp=$(date +%Y%m%d-%H%M%S)
key=tour-$stamp signer=tour-signer-$stamp
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi

step() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
show() { # prints the command as a person would type it, then runs it
  printf '$ keywright %s\n' "$*"
  "$keywright" "$@"
}

step '1. Create a key. It says where its material lives (custody).'
show keys create "$key" --algorithm AES-256-GCM

step '2. Encrypt. The ciphertext names key and version, so nobody has to remember them.'
printf 'to whom it concerns' >"$work/letter"
show encrypt --key "$key" --in "$work/letter" --out "$work/letter.kw"
head -c 60 "$work/letter.kw" | tr -c '[:print:]' '.' && echo ...

step '3. Rotate the key: version 2 encrypts from now on, version 1 only decrypts.'
show keys rotate "$key"
show keys versions "$key"

step '4. Decrypt the ciphertext of version 1.'
show decrypt --in "$work/letter.kw"
echo

step '5. Sign and verify.'
show keys create "$signer" --algorithm ECDSA-P256
show sign --key "$signer" --in "$work/letter" --out "$work/letter.sig"
show verify --key "$signer" --in "$work/letter" --signature-file "$work/letter.sig"

step '6. Every step is in the audit log, a Merkle tree that can be proven offline.'
show audit list --limit 8
show audit export --out "$work/audit.export"
"$keywright" audit verifier-key >"$work/verifier-key"
show audit verify "$work/audit.export" --verifier-key-file "$work/verifier-key"
