#!/usr/bin/env bash
# Builds the image, tries the project on the GPUs of this machine in it, and writes one report to send back: see usage below.
# What happens in the image is Python: nemo_mm_align/verify.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'TEXT'
Build the image, try the project in it on the GPUs of this machine, and write one report.

    bash containers/verify.sh [options]
    IMAGE=nemo_mm_align bash containers/verify.sh          # an image that is built; with enroot also a .sqsh file
    srun ... --container-image=... bash containers/verify.sh     # inside the image: nothing is built

  --out FILE       the report (default: verify_report.md); all output goes to a .log beside it, which stays with you
  --steps A,B      only these of: build, imports, doctor, tests, training, benchmark
  --skip A,B       all but these
  --budget S       seconds for all steps after the build (default: 3000)
  --gpus N         take N of the visible GPUs (default: all; the training takes two)
  --engine NAME    docker, podman or enroot (default: the first that is there)
  --here           run the steps in the Python that is active, without a container (default inside the image)
  --dry-run        on the CPU at toy sizes, two processes; implies --here unless IMAGE or --engine is given
  --help

BASE=IMAGE is another base image for the build, PYTHON=PROGRAM the interpreter for --here.

Steps: build (containers/Dockerfile), imports (every pinned package, every module), doctor (on all ranks), tests (tests/gpu),
training (scripts/train.py on two ranks, killed with SIGKILL in the middle and resumed; its losses beside those of an
undisturbed run), benchmark (python -m nemo_mm_align.benchmarks.gpu, about 10 minutes). Each has a limit of its own; one that
fails, hangs or crashes costs that step alone. Ctrl-C ends the run, and the report holds what was done.

The report holds verdicts, figures, card, driver, versions, commit and the last lines of failed steps. It holds no environment
variables, keys, names of machines or users, and no paths outside the checkout; look through it before you send it all the same.

Exit code: 0 all steps that were run passed, 1 one did not, 2 a mistake in the options or nothing to run on, 130 interrupted.
TEXT
}

fail() { echo "verify.sh: $*" >&2; exit 2; }

# --- options -------------------------------------------------------------------------------------------------------------

known=",build,imports,doctor,tests,training,benchmark,"
out=verify_report.md steps=${known:1:-1} skip="" engine="" here="" dry="" image=${IMAGE:-} words=()

names() {
    local name
    for name in ${2//,/ }; do
        case $known in *",$name,"*) ;; *) fail "$1: there is no step $name; there are ${known:1:-1}." ;; esac
    done
}

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --here) here=yes; shift; continue ;;
        --dry-run) dry=yes; words+=(--dry-run); shift; continue ;;
        --out | --steps | --skip | --budget | --gpus | --engine) [ $# -gt 1 ] || fail "$1 needs a value." ;;
        *) fail "unknown option $1; --help lists them." ;;
    esac
    case $1 in
        --out) out=$2 ;;
        --steps) names "$1" "$2"; steps=$2 ;;
        --skip) names "$1" "$2"; skip=$2 ;;
        --engine)
            case $2 in docker | podman | enroot) engine=$2 ;; *) fail "--engine $2: docker, podman or enroot." ;; esac ;;
        --budget) [[ $2 =~ ^[0-9]+$ && $2 -gt 0 ]] || fail "--budget $2: a number of seconds, above 0."; words+=("$1" "$2") ;;
        --gpus) [[ $2 =~ ^[0-9]+$ && $2 -gt 0 ]] || fail "--gpus $2: a number of GPUs, at least 1."; words+=("$1" "$2") ;;
    esac
    shift 2
done

wanted() { case ",$skip," in *",$1,"*) return 1 ;; esac; case ",$steps," in *",$1,"*) ;; *) return 1 ;; esac; }

inner=()
for name in imports doctor tests training benchmark; do if wanted "$name"; then inner+=("$name"); fi; done
words+=(--steps "$(IFS=,; echo "${inner[*]}")")

# --- where to run --------------------------------------------------------------------------------------------------------

if [ -e /opt/nemo_mm_align/image-versions.txt ]; then here=yes; fi
if [ -n "$dry" ] && [ -z "$image$engine" ]; then here=yes; fi
if [ -z "$here" ]; then
    for name in ${engine:-docker podman enroot}; do
        if command -v "$name" > /dev/null; then engine=$name; break; fi
        [ -z "$engine" ] || fail "$engine is not installed."
    done
    [ -n "$engine" ] || fail "neither docker nor podman nor enroot is installed; inside the image, or with the packages" \
        "installed, give --here."
    if [ "$engine" = docker ] && ! docker info > /dev/null 2>&1; then
        fail "docker is installed, but its service does not answer: start it, or join the group docker."
    fi
fi
if [ -z "$dry" ] && ! { command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q '^GPU'; }; then
    fail "no GPU is visible (nvidia-smi); --dry-run tries the steps on the CPU."
fi
[ ${#inner[@]} -gt 0 ] || { [ -z "$here" ] && wanted build; } || fail "no step is left to run."

[ -n "$here$image" ] || wanted build || fail "the step build is left out and no image is named: IMAGE=NAME."
case $out in *.log) fail "--out $out: the log of all output is called so; give the report another ending." ;; esac
if ! mkdir -p "$(dirname "$out")" 2> /dev/null || ! { : > "$out"; } 2> /dev/null; then
    fail "$out: the report cannot be written there; give another place with --out."
fi
folder=$(cd "$(dirname "$out")" && pwd) name=$(basename "$out")
out=$folder/$name log=$folder/${name%.*}.log

# --- the report where there is no image to write it ------------------------------------------------------------------------

redact() {
    sed -E -e "s#$root/?##g" -e 's#(https?|ftp|ssh|git)://[^ /"]+#\1://***#g' -e 's#(^|[^A-Za-z0-9_.~/-])/([A-Za-z0-9_.+@-]+/)+#\1.../#g' \
        -e "s#\b$(hostname 2> /dev/null || echo HOST)\b#HOST#g" -e "s#\b(${USER:-USER}|${LOGNAME:-USER})\b#USER#g" \
        -e 's#(AIza|sk-|hf_|nvapi-|gh[pousr]_)[A-Za-z0-9_-]{16,}#***#g'
}

report_of_build() { # verdict, what was found
    {
        echo "# Verification of nemo_mm_align"
        echo
        echo "| step | verdict | seconds | found |"
        echo "| --- | --- | --- | --- |"
        echo "| build | $1 | $SECONDS | $2 |"
        for name in imports doctor tests training benchmark; do echo "| $name | not run |  |  |"; done
        echo
        echo "Card: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | sort | uniq -c | sed 's/^ *//' || echo none)  "
        echo "Commit: $commit"
        if [ "$1" != passed ]; then
            echo
            echo "## build"
            echo
            tail -n 40 "$log" | tr '\r' '\n' | cut -c 1-400 | sed 's/^/    /'
        fi
    } | redact > "$out.tmp" && mv "$out.tmp" "$out"
}

# --- build -----------------------------------------------------------------------------------------------------------------

commit=$(git -C "$root" rev-parse --short HEAD 2> /dev/null || echo unknown)
if [ -n "$(git -C "$root" status --porcelain 2> /dev/null)" ]; then commit=$commit+changes; fi
base=(); if [ -n "${BASE:-}" ]; then base=(--build-arg "BASE=$BASE"); fi
BASE=${BASE:-$(sed -n 's/^ARG BASE=//p' "$root/containers/Dockerfile")}
running=""
trap 'report_of_build "**interrupted**" "ended from outside"; exit 130' INT TERM

build() {
    case $engine in
        docker | podman)
            image=nemo_mm_align:verify
            "$engine" build -f "$root/containers/Dockerfile" -t "$image" "${base[@]}" --build-arg "COMMIT=$commit" "$root" ;;
        enroot) # no Dockerfiles: the base, which is kept for the next time, and the steps of the Dockerfile run in it
            image=${TMPDIR:-/tmp}/nemo_mm_align-base.sqsh
            [ -e "$image" ] || enroot import --output "$image" "docker://${BASE/\//#}" || return
            enroot_container || return
            enroot start --root --rw --mount "$root:/mnt" --env "NEMO_MM_ALIGN_COMMIT=$commit" nemo_mm_align-verify bash -c '
                set -e; mkdir -p /opt/nemo_mm_align; cd /mnt
                cp -a nemo_mm_align scripts conf containers pyproject.toml README.md LICENSE *.txt /opt/nemo_mm_align
                cd /opt/nemo_mm_align; bash containers/install.sh dependencies; bash containers/install.sh project' ;;
    esac
}

enroot_container() { enroot remove --force nemo_mm_align-verify > /dev/null 2>&1 || true; enroot create --name nemo_mm_align-verify "$image"; }

: > "$log"
if [ -z "$here" ] && [ -z "$image" ]; then
    echo "building the image from containers/Dockerfile with $engine; its output is in $log"
    if ! build >> "$log" 2>&1; then
        report_of_build "**failed**" "$engine build, see the last lines"
        echo "verify.sh: the build failed; the report is $out, all output in $log" >&2
        exit 1
    fi
    words+=(--built "$engine, from ${BASE##*/}, in $SECONDS s")
    if [ ${#inner[@]} -eq 0 ]; then report_of_build passed "$engine, in $SECONDS s"; echo "the report is $out"; exit 0; fi
elif [ -z "$here" ] && [ "$engine" = enroot ]; then
    enroot_container >> "$log" 2>&1 || { rm -f "$out"; fail "IMAGE=$image: enroot cannot open it; $log says why."; }
fi

# --- the steps -------------------------------------------------------------------------------------------------------------

# The tests are not in the image, the report leaves it, and whoever runs this owns what it writes.
mounts=("$root/tests:/opt/nemo_mm_align/tests" "$folder:/report")
inside=(python -m nemo_mm_align.verify --out "/report/$(basename "$out")" "${words[@]}")
gpus=all; if [ -n "$dry" ]; then gpus=""; fi

steps() {
    case ${here:-$engine} in
        yes)
            cd "$root"
            export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} NEMO_MM_ALIGN_COMMIT=${NEMO_MM_ALIGN_COMMIT:-$commit}
            exec "${PYTHON:-python}" -m nemo_mm_align.verify --out "$out" "${words[@]}" ;;
        docker)
            local user=(--user "$(id -u):$(id -g)" --env HOME=/opt/cache)
            if docker info --format '{{.SecurityOptions}}' 2> /dev/null | grep -q rootless; then user=(); fi
            exec docker run --rm --init ${gpus:+--gpus "$gpus"} --ipc=host --ulimit memlock=-1 "${user[@]}" \
                "${mounts[@]/#/--volume=}" "$image" "${inside[@]}" ;;
        podman) # its root inside is this user outside
            exec podman run --rm ${gpus:+--device "nvidia.com/gpu=$gpus"} --ipc=host --ulimit memlock=-1 \
                --security-opt=label=disable "${mounts[@]/#/--volume=}" "$image" "${inside[@]}" ;;
        enroot) exec enroot start --rw "${mounts[@]/#/--mount=}" nemo_mm_align-verify "${inside[@]}" ;;
    esac
}

trap 'kill -INT "$running" 2> /dev/null || true' INT TERM # Python writes the report
steps & # so that the trap runs at once
running=$!
code=0; wait "$running" || code=$?
while kill -0 "$running" 2> /dev/null; do code=0; wait "$running" || code=$?; done
if [ -z "$here" ] && [ "$engine" = enroot ]; then enroot remove --force nemo_mm_align-verify > /dev/null 2>&1 || true; fi
if [ -s "$out" ]; then
    echo "the report is $out; all output is in $log"
else
    rm -f "$out"
    if [ -z "$here" ] && [ "$code" != 2 ]; then # 2: a sentence has been said
        echo "verify.sh: no report: $image does not start, or was built from a commit without nemo_mm_align.verify." >&2
        code=1
    fi
fi
exit "$code"
