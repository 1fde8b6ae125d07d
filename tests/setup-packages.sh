#!/bin/sh
# setup-packages.sh SUDO PACKAGE...: installs the Debian packages that are missing; does nothing when all are there.
set -eu
sudo=$1
shift
missing=
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "this machine has no apt-get; install what these Debian packages hold:$missing" >&2
    exit 1
fi
echo "installing$missing"
$sudo apt-get update -q
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends $missing
