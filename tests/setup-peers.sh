#!/bin/sh
# setup-peers.sh: makes target/venv with the Python peers that the tests talk to. Does nothing when they are there.
set -eu
cd "$(dirname "$0")/.."
venv=target/venv
wanted="hl7==0.4.5 paramiko==5.1.0 aiosmtpd==1.4.6"
if [ -x $venv/bin/mllp_send ] && [ "$(cat $venv/.peers 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "installing $wanted into $venv"
rm -rf $venv
python3 -m venv $venv
# shellcheck disable=SC2086
$venv/bin/pip install --quiet --disable-pip-version-check $wanted
echo "$wanted" > $venv/.peers
