#!/usr/bin/env bash
# Builds containers/Dockerfile for real, on a stand-in for the NeMo image: Debian with Python 3.11 and the packages of an
# environment of yours, mounted read-only. It proves the instructions, the files they copy, pip's options, that nothing of
# the base changes, the smoke test, and the dry run of verify.sh as an unknown user; not that NVIDIA's own packages get along
# with the project.
#
# Opt-in, needs root and Debian's buildah and debootstrap, about 6 minutes and 2 GB under TMPDIR:
#
#   sudo PACKAGES=.venv/lib/python3.11/site-packages bash containers/try_build.sh
#
# pip's own variables (PIP_INDEX_URL, ...) and its configuration file are handed to the build, not to the repository.
# shellcheck disable=SC2016  # variables in single quotes are the image's, expanded in it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for tool in buildah debootstrap; do
    command -v "$tool" > /dev/null || { echo "try_build.sh: $tool is missing: apt-get install buildah debootstrap" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "try_build.sh: needs root (debootstrap and chroot)" >&2; exit 2; }
PACKAGES=$(realpath "${PACKAGES:?a site-packages folder of Python 3.11 holding the requirements of the project}")

work=$(mktemp -d)
store=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
clean() {
    buildah "${store[@]}" rm --all > /dev/null 2>&1 || true
    buildah "${store[@]}" rmi --all --force > /dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT

echo "1/5 a Debian with Python"
debootstrap --variant=minbase --include=python3,python3-pip,python-is-python3,ca-certificates bookworm "$work/rootfs" \
    > "$work/debootstrap.log" || { tail -20 "$work/debootstrap.log" >&2; exit 1; }
echo '{}' > "$work/rootfs/opt/stand-in"

echo "2/5 the stand-in image"
# All but what the project's image is to add itself, so that there is something to add; hard links where possible.
cp -al "$PACKAGES" "$work/packages" 2> /dev/null || cp -a "$PACKAGES" "$work/packages"
rm -rf "$work"/packages/{easy_vqa*,easyvqa*,*nemo_mm_align*}
volumes=(--volume "$work/packages:/opt/host-packages:ro")
container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" copy --quiet "$container" "$work/rootfs" / > /dev/null
rm -rf "$work/rootfs"
settings=(--env PYTHONPATH=/opt/host-packages --env PIP_BREAK_SYSTEM_PACKAGES=1 --env PIP_CONSTRAINT=/nowhere.txt)
while IFS='=' read -r name value; do
    settings+=(--env "$name=$value")
    if [ -e "$value" ]; then volumes+=(--volume "$(realpath "$value"):$value:ro"); fi
done < <(env | grep '^PIP_' | grep -v '^PIP_CONSTRAINT=' || true)
for file in /etc/pip.conf "${HOME:-/root}/.config/pip/pip.conf"; do
    if [ -f "$file" ]; then volumes+=(--volume "$file:/etc/pip.conf:ro"); break; fi
done
buildah "${store[@]}" config "${settings[@]}" "$container"
buildah "${store[@]}" commit --quiet "$container" localhost/nemo-stand-in > /dev/null
buildah "${store[@]}" rm "$container" > /dev/null

echo "3/5 the image"
buildah "${store[@]}" bud --isolation chroot --pull-never --layers=false "${volumes[@]}" \
    --build-arg BASE=localhost/nemo-stand-in --build-arg COMMIT="$(git rev-parse --short HEAD 2> /dev/null || echo unknown)" \
    --file containers/Dockerfile --tag localhost/nemo_mm_align .

echo "4/5 a run as a user that the image does not know"
container=$(buildah "${store[@]}" from --pull-never localhost/nemo_mm_align)
inside() { buildah "${store[@]}" run --isolation chroot --user 12345:12345 "${volumes[@]}" "$container" -- "$@"; }
inside sh -c 'touch "$HF_HOME/x" "$TRITON_CACHE_DIR/x" && ! touch /opt/nemo_mm_align/x 2> /dev/null'
inside sh -c 'cd /opt/nemo_mm_align && for gone in .git tests data .venv; do [ ! -e "$gone" ] || exit 1; done'
inside sh -c 'cat /opt/nemo_mm_align/image-versions.txt | wc -l; HOME=/opt/cache python /opt/nemo_mm_align/scripts/doctor.py'

echo "5/5 every step of containers/verify.sh in it, on the CPU"
volumes+=(--volume "$PWD/tests:/opt/nemo_mm_align/tests:ro")
inside sh -c 'HOME=/opt/cache bash /opt/nemo_mm_align/containers/verify.sh --dry-run --out /tmp/report.md'
echo "try_build.sh: built, ran as user 12345, nothing of the base changed"
