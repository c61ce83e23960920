#!/usr/bin/env bash
# A SoftHSM 2 token under DIR, with a configuration of its own: nothing outside DIR is touched.
#
#   eval "$(softhsm-test/softhsm.sh /tmp/hsm prod)"
#   pkcs11-tool --module "$HSM_MODULE" -L
#
# A second LABEL on the same DIR is a second token of the same module. LABEL is keywright, PIN 648219 and the SO's PIN
# 97531086 unless given. To clean up, remove DIR.
usage='DIR [LABEL [PIN SOPIN]]'
. "$(dirname -- "${BASH_SOURCE[0]}")/part.sh"

need softhsm2-util
dir=$(part_dir "${1:-}")
label=${2:-keywright}
module=$(library softhsm/libsofthsm2.so)

export SOFTHSM2_CONF=$dir/softhsm2.conf
mkdir -p "$dir/tokens"
cat >"$SOFTHSM2_CONF.new" <<CONF
directories.tokendir = $dir/tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
slots.mechanisms = ALL
CONF
mv "$SOFTHSM2_CONF.new" "$SOFTHSM2_CONF"
keep "$dir/pin" "${3:-}" 648219
keep "$dir/so-pin" "${4:-}" 97531086

# The serial of the token with our label; labels end in blanks up to 32 characters.
serial() {
  softhsm2-util --show-slots --module "$module" | awk -v want="$label" '
    /^Slot / { serial = "" }
    /Serial number:/ { serial = $3 }
    /Label:/ { sub(/^ *Label: */, ""); sub(/ *$/, ""); if ($0 == want && serial != "") { print serial; exit } }'
}

found=$(serial)
if [ -z "$found" ]; then
  log=$(softhsm2-util --init-token --free --module "$module" --label "$label" \
    --pin "$(cat "$dir/pin")" --so-pin "$(cat "$dir/so-pin")" 2>&1) || die "$log"
  found=$(serial)
  [ -n "$found" ] || die "the new token has no serial number"
fi

say_env SOFTHSM2_CONF "$SOFTHSM2_CONF"
describe "$module" "$label" "$found" "$dir/pin" "$dir/so-pin"
