#!/bin/sh
# fetch.sh DIRECTORY: AOSP's adbd 34 and mksh, Android's shell, out of Debian trixie, unpacked into DIRECTORY; nothing is
# installed.
#
# apt works here in a directory of its own, as whoever calls: its own lists, cache and (empty) status, one source, which
# is this system's own mirror with this system's own keyring. The daemon needs trixie's C library, so the packages are
# unpacked side by side and it is started through their own dynamic loader.
set -eu
target=$1
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
. /etc/os-release
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk -v own="$VERSION_CODENAME" '$2 == own { print $1; exit }')
[ -n "$mirror" ] || { echo "apt on this system has no source for $VERSION_CODENAME; adbd is a package of Debian" >&2; exit 1; }

rm -rf "$target" "$target.new" "$target.apt"
mkdir -p "$target.new" "$target.apt/lists/partial" "$target.apt/cache/archives/partial" "$target.apt/parts"
trap 'rm -rf "$target.apt" "$target.new"' EXIT
here=$(cd "$target.apt" && pwd)
: > "$here/status"
echo "deb [signed-by=$keyring] $mirror trixie main" > "$here/sources.list"
cat > "$here/apt.conf" <<END
Dir::State "$here";
Dir::State::lists "$here/lists";
Dir::State::status "$here/status";
Dir::Cache "$here/cache";
Dir::Etc::sourcelist "$here/sources.list";
Dir::Etc::sourceparts "$here/parts";
Acquire::Languages "none";
APT::Sandbox::User "";
APT::Keep-Downloaded-Packages "true";
Debug::NoLocking "true";
END
export APT_CONFIG="$here/apt.conf"
apt-get update -q
apt-get install -q -y --download-only --no-install-recommends adbd mksh
for package in "$here"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$target.new"
done
mv "$target.new" "$target"
