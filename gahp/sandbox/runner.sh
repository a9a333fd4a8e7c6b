#!/bin/bash
PAYLOAD=0000000000 # where the tar behind this script begins (bytes, from 1); the submit host writes it here: always ten digits
PACK=0000000000 # 0: that tar is one job's; else an array job's directory begins there, of so many bytes; always ten digits, too
#
# The runner: what a job's container executes. It fetches the job's input, runs the program, sends the output back.
#
# Needs bash 4.4, coreutils, GNU tar, for children of array jobs gzip, and s5cmd or aws; curl or wget only for jobs with http inputs, but
# where curl 7.75 or later is there S3 is asked less. Knows nothing of AWS Batch but
# three variables: GAHP_RUN_URL (s3://bucket/prefix/runs/RUN), GAHP_SUBMISSION and AWS_BATCH_JOB_ATTEMPT.
#
# GAHP_REGION is the bucket's Region as the submit host knows it, for containers that are told none; it may be missing.
#
# A child of an array job knows GAHP_PACK_URL and AWS_BATCH_JOB_ARRAY_INDEX instead of the first two: run and submission are in its part.
#
# In:  the tar behind this script: job/ (NUL-separated lists, see manifest.py), scratch/ (small inputs), stdin, proxy.
# Out: GAHP_RUN_URL/GAHP_SUBMISSION/out/N, then .../result, a tar: exit.json, files (the list of what came out), small files.
#      `result` goes last and in one PUT: with it the job is over, without it nothing happened.
# First of all it claims its submission, GAHP_RUN_URL/GAHP_SUBMISSION/claim: of two copies that came to run one ends at once.
# Exit code: the program's own; 128 + signal when one killed it; 125 when the runner could not do its part.
#
# Rules that the code keeps:
# - SIGTERM is answered at once. bash runs a trap only between commands, but `wait` can be interrupted: so whatever can take
#   long runs in the background, in a process group of its own (set -m), and is waited for with `attend`.
# - The result needs no disk. A job that filled it still gets its exit.json out: headers, list and tar are streamed.
# - Names and values from the job are data: always quoted, never evaluated, NUL-separated where they are stored.
#
# Knobs, for tests: GAHP_SCRATCH (where to work), GAHP_CGROUP (none: no memory figures), GAHP_GRACE (seconds a program gets
# after SIGTERM), GAHP_SEND_TIME (seconds that large outputs get then), GAHP_PROXY_INTERVAL (seconds), GAHP_RETRY_DELAY (seconds),
# GAHP_MAX_FILES (how many outputs there may be).

set -u -m
EARLY=''
trap 'EARLY=1' TERM INT HUP # until main knows what to do
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "awsbatch_gahp runner: the container's bash is $BASH_VERSION, and 4.4 is needed: use a newer image" >&2
    exit 125
fi

# The container's environment as it was before bash touched it; names that are no shell identifiers are in it too.
mapfile -d '' -t CONTAINER_ENV < "/proc/$$/environ"
unset BASH_ENV ENV CDPATH GLOBIGNORE POSIXLY_CORRECT TAR_OPTIONS TAR TAPE BLOCK_SIZE BLOCKSIZE GZIP DU_BLOCK_SIZE QUOTING_STYLE
IFS=$' \t\n'
shopt -s dotglob nullglob # behind the unset of GLOBIGNORE, which takes dotglob back
export LC_ALL=C # lengths in bytes, messages in English, in this script and its tools; the program gets CONTAINER_ENV

readonly MAX_INSIDE=1048576 MAX_RESULT=8388608 # bytes: one file inside the result, all files inside the result
readonly MAX_FILES=${GAHP_MAX_FILES:-200000}   # the submit host takes no longer list
readonly GRACE=${GAHP_GRACE:-20} SEND_TIME=${GAHP_SEND_TIME:-6} # of the 30 s that AWS Batch gives; the rest is for the result
readonly RETRY_DELAY=${GAHP_RETRY_DELAY:-1}
RUN_URL=${GAHP_RUN_URL:-}
RESULT_URL=$RUN_URL/${GAHP_SUBMISSION:-0}
readonly PACK_URL=${GAHP_PACK_URL:-} DIRECTORY=$((10#$PACK))
ROOT_URL=${RUN_URL%/runs/*}
ATTEMPT=${AWS_BATCH_JOB_ATTEMPT:-1}
SENDS=${GAHP_SENDS:-1} # how often the submit host has asked for this submission
readonly JOB=${AWS_BATCH_JOB_ID:-} CLAIM_TIME=${GAHP_CLAIM_TIME:-3}
SELF=$0
[[ $SELF == /* ]] || SELF=$PWD/$SELF
WORK='' SCRATCH=''
CHILD='' PROGRAM=''
STEP=stage_in           # stage_in, run, stage_out, commit: what a signal means depends on it
TOLD_OF_SIGTERM=false ALARMS=0
TERMINATED=false OOM=false
PHASE='' MESSAGE=''       # of a failure of the runner itself
CLAIM=''                # what `claim` has said
EXIT_CODE=null EXIT_SIGNAL=null
STARTED=null FINISHED=null USER_CPU=null SYSTEM_CPU=null PEAK=null DISK=null SENT=0 RECEIVED=0
declare -A SETTING=()
LIST=()                 # what came out, seven fields a record: kind, declaration, place, size, sha256, mode, name
MEMBERS=()              # files that travel inside the result
HELPERS=()              # process groups to end with the runner
ZEROES=({1..512})

say() { printf 'awsbatch_gahp runner: %s\n' "$*" >&2; }

fail() { # phase message: remember the first failure
    [[ -n $PHASE ]] || { PHASE=$1 MESSAGE=$2; }
    say "$2"
}

now() { NOW=${EPOCHREALTIME:-$(date +%s.%N)}; }

nuls() { (($1 > 0)) && printf '\0%.0s' "${ZEROES[@]:0:$1}"; }

quoted() { QUOTED="'${1//\'/\'\\\'\'}'"; } # for the command language of s5cmd, which splits as a shell does

# ---------------------------------------------------------------------------------------------------------------- signals

on_term() {
    if [[ $TOLD_OF_SIGTERM == false ]]; then
        TOLD_OF_SIGTERM=true
        [[ $STEP == stage_in || $STEP == run ]] && TERMINATED=true
        helper send_alarms
        say "SIGTERM while $STEP"
    fi
    case $STEP in
        stage_in) [[ -n $CHILD ]] && kill -TERM -- "-$CHILD" 2> /dev/null ;;
        run) [[ -n $PROGRAM ]] && kill -TERM -- "-$PROGRAM" 2> /dev/null ;;
    esac
}

send_alarms() { sleep "$GRACE"; kill -USR1 "$$"; sleep "$SEND_TIME"; kill -USR1 "$$"; }

on_alarm() { # first: the program had its time; second: large outputs had theirs, what is left goes to the result
    ALARMS=$((ALARMS + 1))
    if [[ $STEP == run && -n $PROGRAM ]]; then
        kill -KILL -- "-$PROGRAM" 2> /dev/null
    elif [[ $STEP == stage_out && -n $CHILD ]] && ((ALARMS > 1)); then
        TERMINATED=true
        kill -KILL -- "-$CHILD" 2> /dev/null
    fi
}

running() { # process: is it there, and not a zombie?
    local line
    { read -r line < "/proc/$1/stat"; } 2> /dev/null || return 1
    line=${line##*) }
    [[ $line != Z* ]]
}

await() { # child: until it has ended. A trap ends `wait` early, and may make bash forget the child or its status: so no status is
    # ever taken from here; what a child has to say it writes to the pipe
    while running "$1"; do
        wait "$1" 2> /dev/null
        [[ $? != 127 ]] || ! running "$1" || sleep 0.05
    done
}

attend() { # command...: run it in a process group of its own until it ends, or until a trap kills the group
    ( set +m; "$@" ) & # no job control inside: its children stay in its group
    CHILD=$!
    [[ $STEP == stage_in && $TERMINATED == true ]] && kill -TERM -- "-$CHILD" 2> /dev/null # it came before CHILD was known
    await "$CHILD"
    CHILD=''
    drain
}

helper() { # command...: a child that lives as long as the runner, at most
    ( set +m; "$@" ) > /dev/null 2>&1 9>&- &
    HELPERS+=("$!")
    disown "$!" # bash need not report its end
}

# A pipe to ourselves (file descriptor 9): builtins and children hand text over without a fork and without disk.
open_pipe() { exec 9<> <(:); }

drain() { # the texts in the pipe, into DRAINED
    local text
    DRAINED=()
    printf 'end of texts\0' >&9
    while IFS= read -r -d '' -u 9 text; do
        [[ $text == 'end of texts' ]] && break
        DRAINED+=("$text")
    done
}

# --------------------------------------------------------------------------------------------------------------------- S3

s3_get() { # url file
    if [[ $S3_TOOL == s5cmd ]]; then
        s5cmd --log error cp --raw "$1" "$2"
    else
        aws s3 cp --only-show-errors "$1" "$2"
    fi
}

s3_get_small() { # url file: in one request, where there is curl: s5cmd would ask for the size first
    local signed
    if [[ $S3_TOOL == s5cmd && $1 =~ ^s3://[A-Za-z0-9/_.-]+$ ]] && command -v curl > /dev/null; then
        signed=$(s5cmd --log error presign "$1" 2> /dev/null)
        [[ $signed == http*[?]* && $signed != *[\"\\[:space:]]* ]] \
            && printf 'url = "%s"\n' "$signed" | curl --silent --fail --location --connect-timeout 20 --config - --output "$2" 2> /dev/null && return
    fi
    s3_get "$1" "$2"
}

s3_put() { # url size: standard input goes there; the parts are sized so that 10,000 of them are enough
    if [[ $S3_TOOL == s5cmd ]]; then
        s5cmd --log error pipe --raw --concurrency 2 --part-size "$(($2 / 1048576 / 9000 + 8))" "$1"
    else
        aws s3 cp --only-show-errors --expected-size "$2" - "$1"
    fi > /dev/null
}

# --------------------------------------------------------------------------------------------------------------- stage in

unpack() {
    local base=${GAHP_SCRATCH:-${TMPDIR:-/tmp}} errors
    WORK=$(mktemp -d -- "$base/gahp.XXXXXXXX" 2>&1) || { fail stage_in "The container has no directory to work in: $WORK. Give the job definition a writable disk with room, and release the job."; WORK=''; return 1; }
    SCRATCH=$WORK/scratch
    if ((DIRECTORY)); then unpack_child; return; fi
    if ! errors=$( { tail -c "+$((10#$PAYLOAD))" -- "$SELF" | tar -x -p -m --no-same-owner -C "$WORK" -f - && mkdir -p -- "$SCRATCH"; } 2>&1 ); then
        fail stage_in "The job's manifest cannot be unpacked in the container: ${errors%%$'\n'*}. Is its disk full? Then raise request_disk, and release the job."
        return 1
    fi
}

# The directory has a row of 43 bytes for each block of neighbours: the index of its first child and how many it has; in which shard it is,
# 0: behind the directory; where it begins there, from 1, and how long it is. A block is gzipped: a line with the length of each child's
# tar, then the tars. Few processes: each takes a millisecond or two, longer than bash takes to read over this script.

unpack_child() {
    local index=${AWS_BATCH_JOB_ARRAY_INDEX:-} file=$SELF offset=$((10#$PAYLOAD - 1)) script last number child=-1 count begin length errors
    local -a rows=()
    [[ $index =~ ^(0|[1-9][0-9]{0,4})$ ]] || { fail stage_in "AWS_BATCH_JOB_ARRAY_INDEX is '$index' in the container: the job's manifest is for children of an array job. Release the job."; return 1; }
    { read -r -N "$offset" script; mapfile -t -n "$((DIRECTORY / 43))" rows; } < "$SELF"
    printf -v last '%06d~' "$index" # behind the rows of blocks that begin with this child, or before it
    for ((number = ${#rows[@]} - 1; number > 0; number--)); do [[ ${rows[number]} > $last ]] || break; done
    if [[ ${rows[number]:-} =~ ^([0-9]{6})\ ([0-9]{6})\ ([0-9]{6})\ ([0-9]{10})\ ([0-9]{10})$ ]]; then
        child=$((index - 10#${BASH_REMATCH[1]})) count=$((10#${BASH_REMATCH[2]}))
        number=$((10#${BASH_REMATCH[3]})) begin=$((10#${BASH_REMATCH[4]})) length=$((10#${BASH_REMATCH[5]}))
    fi
    ((child >= 0 && child < count)) || { fail stage_in "The array job's manifest has no child $index: release the job to run it again."; return 1; }
    if ((number)); then
        file=$WORK/shard offset=0
        attend get_shard "$PACK_URL/shard/$number" "$file"
        [[ ${DRAINED[0]:-} == fetched ]] || { fail stage_in "The job's part of the manifest cannot be fetched from $PACK_URL/shard/$number: see that the job role may read it, and release the job."; return 1; }
    fi
    if ! errors=$( { tail -c "+$((offset + begin))" -- "$file" | head -c "$length" | gzip -d -c > "$WORK/block" &&
        unpack_tar && mkdir -p -- "$SCRATCH" && rm -f -- "$WORK/block" "$WORK/shard"; } 2>&1 ); then
        errors=${errors#$'\n'} # gzip begins with an empty line
        fail stage_in "The job's part of the manifest cannot be unpacked in the container: ${errors%%$'\n'*}. Is its disk full? Then raise request_disk, and release the job."
        return 1
    fi
}

unpack_tar() { # of the child, out of the block of count
    local -a lengths=()
    mapfile -t -n "$count" lengths < "$WORK/block"
    ((${#lengths[@]} == count)) && [[ ${lengths[*]} =~ ^[0-9]{10}(\ [0-9]{10})*$ ]] || { echo "its block is not of $count children"; return 1; }
    begin=$((11 * count + 1)) length=$((10#${lengths[child]}))
    for ((number = 0; number < child; number++)); do begin=$((begin + 10#${lengths[number]})); done
    tail -c "+$begin" -- "$WORK/block" | head -c "$length" | tar -x -p -m --no-same-owner -C "$WORK" -f -
}

get_shard() { # url file: a child of its own
    local try
    for try in 1 2 3 4; do
        s3_get_small "$1" "$2" && { printf 'fetched\0' >&9; return; }
        sleep $((RETRY_DELAY * try * try))
    done
}

read_job() {
    local pair i
    while IFS= read -r -d '' pair; do SETTING[${pair%%=*}]=${pair#*=}; done < "$WORK/job/settings"
    mapfile -d '' -t ARGUMENTS < "$WORK/job/arguments"
    mapfile -d '' -t JOB_ENV < "$WORK/job/environment"
    mapfile -d '' -t INPUTS < "$WORK/job/inputs"
    mapfile -d '' -t OUTPUTS < "$WORK/job/outputs"
    mapfile -d '' -t REMAPS < "$WORK/job/remaps"
    declare -gA REMAP=() # name: an s3 URL, or - for a place on the submit host
    for ((i = 0; i < ${#REMAPS[@]}; i += 2)); do REMAP[${REMAPS[i]}]=${REMAPS[i + 1]}; done
    RECEIVED=${SETTING[input_bytes]}
    ((DIRECTORY)) || return 0
    RUN_URL=${PACK_URL%/*}/${SETTING[run]} SENDS=${SETTING[sends]}
    RESULT_URL=$RUN_URL/${SETTING[submission]}
}

bad_input() { # message: hand it to the runner and end this child
    printf 'failed\0%s\0' "${1:0:2000}" >&9
    exit 1
}

fetch_all() { # a child of its own; every record of INPUTS is: kind (blob, pack, url, mount), source, size, sha256, mode, destination
    local i source errors='' url_bytes=0
    local -A number=()
    local -a wanted=() blobs=()
    mkdir -- "$WORK/in" || bad_input "The inputs cannot be written to $WORK in the container: if its disk is full, raise request_disk; then release the job."
    for ((i = 0; i < ${#INPUTS[@]}; i += 6)); do
        source=${INPUTS[i + 1]}
        [[ -n ${number[$source]:-} ]] && continue
        number[$source]=$i
        wanted+=("$source")
        [[ ${INPUTS[i]} == blob || ${INPUTS[i]} == pack ]] && blobs+=("$source")
    done
    copy_mounted
    fetch_http
    fetch_s3
    for source in "${wanted[@]}"; do
        [[ -f $WORK/in/${number[$source]} ]] || bad_input "$(not_fetched)"
    done
    check_blobs
    place_inputs
    rm -rf -- "$WORK/in"
    printf 'fetched\0%s\0' "$url_bytes" >&9
}

not_fetched() { # the sentence about source, with the line of errors that is about it
    local i=${number[$source]} line reason=''
    local what=${INPUTS[i + 5]#scratch/} url=$source
    [[ $source == *://* ]] || url=$ROOT_URL/blobs/$source
    while IFS= read -r line; do
        [[ -z $reason || $line == *"$url"* ]] && reason=$line
    done < <(printf '%s\n' "$errors")
    printf '%s' "The input ${what:-files} could not be fetched from $url: ${reason:-no reason given}. See that the job role may read it, and release the job."
}

fetch_s3() { # what is missing afterwards is seen, and named, by the caller; sets errors
    local source url i count=0
    local -a lines=()
    for source in "${wanted[@]}"; do
        case $source in
            http://* | https://* | /*) continue ;;
            s3://*) url=$source ;;
            *) url=$ROOT_URL/blobs/$source ;;
        esac
        if [[ $S3_TOOL == s5cmd ]]; then
            quoted "$url"
            lines+=("cp --raw $QUOTED ${number[$source]}")
        else
            lines+=("$url" "${number[$source]}")
        fi
    done
    ((${#lines[@]})) || return 0
    cd -- "$WORK/in" || bad_input "The inputs' directory $WORK/in in the container is gone: release the job to run it again."
    if [[ $S3_TOOL == s5cmd ]]; then
        errors=$(printf '%s\n' "${lines[@]}" | s5cmd --log error --numworkers 16 run 2>&1 > /dev/null)
    else
        errors=$( { for ((i = 0; i < ${#lines[@]}; i += 2)); do
            (((count += 1) > 4)) && wait -n
            s3_get "${lines[i]}" "${lines[i + 1]}" &
        done; wait; } 2>&1 > /dev/null)
    fi
    [[ -z $errors ]] || say "$errors"
}

copy_mounted() { # a copy, as of every input: the program may change it
    local source errors
    for source in "${wanted[@]}"; do
        [[ $source == /* ]] || continue
        errors=$(cp -L -- "$source" "$WORK/in/${number[$source]}" 2>&1) \
            || bad_input "The input $source could not be copied from its mount: ${errors##*: }. See that the job definition mounts what AWSBATCH_SHARED_DIRECTORIES says, and release the job."
    done
}

fetch_http() { # four at a time
    local source child failed=0
    local -a children=()
    for source in "${wanted[@]}"; do
        [[ $source == http://* || $source == https://* ]] || continue
        ((${#children[@]} < 4)) || wait -n
        http_get "$source" "$WORK/in/${number[$source]}" &
        children+=("$!")
    done
    for child in "${children[@]}"; do wait "$child" || failed=1; done
    ((failed == 0)) || exit 1 # whoever failed has said why
}

http_get() { # url file
    local text
    if command -v curl > /dev/null; then
        text=$(curl -fsS --globoff --location --retry 3 --connect-timeout 30 --output "$2" "$1" 2>&1)
    elif command -v wget > /dev/null; then
        text=$(wget -nv --tries=3 --timeout=60 -O "$2" -- "$1" 2>&1)
    else
        bad_input "The input $1 could not be fetched: the container has neither curl nor wget. Add one to the image, or transfer the file itself."
    fi || bad_input "The input $1 could not be fetched: ${text##*$'\n'}. Mend what it says, and release the job."
}

lines_of() { # command...: with the files in BATCH as its arguments; into LINES, one a file, empty where it failed
    local file
    mapfile -t LINES < <("$@" -- "${BATCH[@]}" 2> /dev/null)
    ((${#LINES[@]} == ${#BATCH[@]})) && return
    LINES=()
    for file in "${BATCH[@]}"; do LINES+=("$("$@" -- "$file" 2> /dev/null)"); done
}

check_blobs() { # what came by content has that content
    local i j name sum
    for ((i = 0; i < ${#blobs[@]}; i += 200)); do
        BATCH=()
        for source in "${blobs[@]:i:200}"; do BATCH+=("$WORK/in/${number[$source]}"); done
        lines_of sha256sum
        for ((j = 0; j < ${#BATCH[@]}; j++)); do
            source=${blobs[i + j]} sum=${LINES[j]#\\}
            name=${number[$source]}
            [[ ${sum:0:64} == "$source" ]] || bad_input "The input ${INPUTS[name + 5]#scratch/} did not arrive whole: $ROOT_URL/blobs/$source does not hold what its name says. Delete that object, and release the job."
        done
    done
}

place_inputs() { # packs first, then copies of what is needed twice, then the files themselves; sets url_bytes
    local i mode first size
    local -A chmods=()
    local -a files=()
    cd -- "$WORK/in" || bad_input "The inputs' directory $WORK/in in the container is gone: release the job to run it again."
    for ((i = 0; i < ${#INPUTS[@]}; i += 6)); do
        source=${INPUTS[i + 1]} mode=${INPUTS[i + 4]}
        first=${number[$source]}
        if [[ ${INPUTS[i]} == pack ]]; then
            tar -x -p -m --no-same-owner -C "$WORK" -f "$first" || bad_input "The inputs cannot be unpacked in $SCRATCH: if the container's disk is full, raise request_disk; then release the job."
            continue
        fi
        [[ $first == "$i" ]] || cp -- "$first" "$i" || bad_input "The input ${INPUTS[i + 5]#scratch/} cannot be written: if the container's disk is full, raise request_disk; then release the job."
        [[ -n $mode ]] && chmods[$mode]+=" $i"
        [[ ${INPUTS[i]} == url ]] && size=$(stat -c %s -- "$i") && url_bytes=$((url_bytes + size))
    done
    for mode in "${!chmods[@]}"; do
        read -r -a files <<< "${chmods[$mode]}"
        for ((i = 0; i < ${#files[@]}; i += 1000)); do
            chmod -- "$mode" "${files[@]:i:1000}" || bad_input "The inputs cannot be given the mode $mode in the container: give it another disk, and release the job."
        done
    done
    for ((i = 0; i < ${#INPUTS[@]}; i += 6)); do
        [[ ${INPUTS[i]} == pack ]] && continue
        mv -T -- "$i" "$WORK/${INPUTS[i + 5]}" || bad_input "The input ${INPUTS[i + 5]#scratch/} cannot be put in its place in the container: release the job, and if it comes again, rename the file."
    done
}

# Whoever has written its Batch job's id into the claim runs the program; a retried attempt has the same id and takes it over.
# curl, if it can sign, and aws can write it on condition that it is not there; s5cmd cannot, but starts ten times faster than aws. So
# where curl cannot do it s5cmd looks and then writes, which leaves some milliseconds to a copy that starts at the same moment. Where the
# submit host says that a copy may exist (SENDS), aws writes it if it is there, and what was written is looked at again when the other
# copy has had time to overwrite it.

absent() { # text url: does S3 say there that url is not there? The URL, which may have any digits in it, says nothing
    local text=${1//"$2"/}
    [[ $text == *"not found"* || $text == *"status code: 404"* || $text == *"(404)"* || $text == *NoSuchKey* ]]
}

whose() { # the claim, into OWNER; 1: there is none, 2: S3 does not say, 3: S3 will not say
    local errors=$WORK/claim.errors text
    [[ -n $WORK ]] || errors=/dev/stdout # there is nowhere to write: a complaint is nobody's id
    if [[ $S3_TOOL == s5cmd ]]; then OWNER=$(s5cmd --log error cat --raw "$RESULT_URL/claim" 2> "$errors")
    else OWNER=$(aws s3 cp --only-show-errors "$RESULT_URL/claim" - 2> "$errors"); fi && return 0
    if [[ -n $WORK ]]; then text=$(< "$errors"); else text=$OWNER; fi
    absent "$text" "$RESULT_URL" && return 1
    say "cannot read $RESULT_URL/claim: $text"
    [[ $text == *AccessDenied* || $text == *Forbidden* ]] && return 3
    return 2
}

write_claim() { # 0 also when another was there first: whose says so
    local text bucket=${RESULT_URL#s3://}
    if [[ $S3_TOOL == aws || $SENDS -gt 1 ]] && [[ -n $WORK ]] && command -v aws > /dev/null; then
        printf '%s' "$JOB" > "$WORK/claim"
        text=$(aws s3api put-object --bucket "${bucket%%/*}" --key "${bucket#*/}/claim" --if-none-match '*' --body "$WORK/claim" 2>&1) && return 0
        [[ $text == *PreconditionFailed* ]] && return 0
        say "no conditional write: $text" # a client or a store that has none
    fi
    printf '%s' "$JOB" | s3_put "$RESULT_URL/claim" 100
}

credentials() { # the container's, into KEY, SECRET and TOKEN, as every AWS program looks for them; 1: not to be had here
    local text='' url=${AWS_CONTAINER_CREDENTIALS_FULL_URI:-}
    KEY=${AWS_ACCESS_KEY_ID:-} SECRET=${AWS_SECRET_ACCESS_KEY:-} TOKEN=${AWS_SESSION_TOKEN:-}
    if [[ -z $KEY ]]; then
        [[ ${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI:-} != /* ]] || url=http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI
        [[ $url == http*://* && $url != *[\"\\[:space:]]* ]] || return 1
        text=$(printf 'url = "%s"\n' "$url" | curl --silent --fail --noproxy '*' --max-time 5 --config - 2> /dev/null) || return 1
        [[ $text =~ \"AccessKeyId\"[[:space:]]*:[[:space:]]*\"([^\"]+)\" ]] && KEY=${BASH_REMATCH[1]}
        [[ $text =~ \"SecretAccessKey\"[[:space:]]*:[[:space:]]*\"([^\"]+)\" ]] && SECRET=${BASH_REMATCH[1]}
        [[ $text =~ \"Token\"[[:space:]]*:[[:space:]]*\"([^\"]+)\" ]] && TOKEN=${BASH_REMATCH[1]}
    fi
    [[ $KEY =~ ^[A-Za-z0-9]+$ && $SECRET =~ ^[A-Za-z0-9/+=_.-]+$ && $TOKEN =~ ^[A-Za-z0-9/+=_.-]*$ ]]
}

claim_at_once() { # curl writes it on condition that there is none: one request, and no copy comes between. 1: not ours, or not known
    local object=${RESULT_URL#s3://}/claim region=${AWS_REGION:-${AWS_DEFAULT_REGION:-${GAHP_REGION:-}}}
    local endpoint=${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL:-${S3_ENDPOINT_URL:-}}} sum KEY SECRET TOKEN code
    command -v curl > /dev/null && [[ $object =~ ^[A-Za-z0-9/_.-]+$ && $region =~ ^[a-z0-9-]+$ && $JOB =~ ^[A-Za-z0-9:-]+$ ]] || return 1
    if [[ -n $endpoint ]]; then
        [[ $endpoint =~ ^https?://[A-Za-z0-9.:-]+/?$ ]] || return 1
        endpoint=${endpoint%/}/$object
    else
        [[ $region != cn-* && ${object%%/*} != *.* ]] || return 1 # they have other names
        endpoint=https://${object%%/*}.s3.$region.amazonaws.com/${object#*/}
    fi
    credentials || return 1
    sum=$(printf '%s' "$JOB" | sha256sum)
    [[ -z $TOKEN ]] || TOKEN="header = \"x-amz-security-token: $TOKEN\""
    # On its standard input, without a file: nobody sees there what it signs with.
    code=$(printf '%s\n' 'request = "PUT"' "url = \"$endpoint\"" "user = \"$KEY:$SECRET\"" "aws-sigv4 = \"aws:amz:$region:s3\"" \
        "header = \"x-amz-content-sha256: ${sum%% *}\"" "$TOKEN" 'header = "If-None-Match: *"' \
        'header = "Content-Type: application/octet-stream"' "data-binary = \"$JOB\"" \
        | curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}' --config - 2> /dev/null)
    [[ $code == 200 ]]
}

claim() { # a child of its own: says "mine" or "taken" in the pipe, "refused" when it may not look, or nothing when S3 says neither
    local try written='' said
    if [[ $S3_TOOL == s5cmd ]] && claim_at_once; then printf 'mine\0' >&9; return; fi
    for try in 1 2 3 4; do
        whose
        said=$?
        case $said in
            0)
                [[ $OWNER == "$JOB" ]] || { say "not run: the Batch job $OWNER has this submission"; printf 'taken\0' >&9; return; }
                [[ $written != new || $SENDS -le 1 ]] && { printf 'mine\0' >&9; return; }
                sleep "$CLAIM_TIME"
                written=old
                ;;
            1)
                if write_claim; then written=new; else sleep $((RETRY_DELAY * try)); fi
                [[ $written == new && $SENDS -le 1 && $S3_TOOL == s5cmd ]] && { printf 'mine\0' >&9; return; }
                ;;
            *) sleep $((RETRY_DELAY * try)) ;;
        esac
    done
    ((said != 3)) || printf 'refused\0' >&9
}

claim_run() {
    [[ -n $JOB ]] || return 0 # not in AWS Batch
    attend claim
    CLAIM=${DRAINED[0]:-}
    case $CLAIM in
        mine) return 0 ;;
        taken) finish 125 ;;
    esac
    if [[ $TERMINATED == true ]]; then fail stage_in "The container was told to end before the program was started: raise batch_runtime if the time limit was reached, and release the job."
    else fail stage_in "The container cannot claim the run: it can neither read nor write $RESULT_URL/claim. Give the job role both, and release the job."; fi
    return 1
}

may_speak() { # is the result ours to write? A copy that did not come to claim the run must not speak for the one that may run it
    [[ -n $JOB && $CLAIM != mine ]] || return 0
    [[ $CLAIM == refused ]] || { attend claim; CLAIM=${DRAINED[0]:-}; }
    # Who may not look has nobody beside him who may.
    [[ $CLAIM == mine || ( $CLAIM == refused && $SENDS -le 1 ) ]]
}

stage_in() {
    unpack || return 1
    read_job
    claim_run || return 1
    earlier_result
    case $? in
        0) finish "$RUNNER_EXIT" ;;
        2) say "attempt $ATTEMPT: not run, since S3 does not say whether an earlier attempt has ended the job"; finish 125 ;;
    esac
    if ((${#INPUTS[@]})); then
        attend fetch_all
        if [[ ${DRAINED[0]:-} == fetched ]]; then
            RECEIVED=$((RECEIVED + DRAINED[1]))
        elif [[ $TERMINATED == true ]]; then
            fail stage_in "The container was told to end while the input was being fetched: raise batch_runtime if the time limit was reached, and release the job."
            return 1
        else
            fail stage_in "${DRAINED[1]:-The input could not be fetched, and nothing says why: raise request_memory if it was short, and release the job.}"
            return 1
        fi
    fi
    if [[ ${SETTING[proxy]} == 1 ]]; then
        helper refresh_proxy
    fi
    [[ ${SETTING[outputs]} != auto ]] || remember_inputs
}

refresh_proxy() { # a child of its own: a newer proxy, when one lies in S3, takes the old one's place in one step
    umask 077
    while :; do
        if s3_get "$RUN_URL/proxy" "$WORK/proxy.new"; then
            chmod 600 -- "$WORK/proxy.new" && mv -f -T -- "$WORK/proxy.new" "$WORK/proxy"
        fi
        sleep "${GAHP_PROXY_INTERVAL:-60}"
    done
}

facts() { # file...: inode, size and time of each, into FACTS, in order
    local i
    FACTS=()
    for ((i = 1; i <= $#; i += 500)); do
        BATCH=("${@:i:500}")
        lines_of stat -L -c '%i %s %y'
        FACTS+=("${LINES[@]}")
    done
}

remember_inputs() { # so that only new and changed files of the top come back
    local file i
    local -a files=()
    declare -gA INPUT_FACTS=()
    for file in "$SCRATCH"/*; do [[ -f $file ]] && files+=("$file"); done
    ((${#files[@]})) || return 0
    facts "${files[@]}"
    for ((i = 0; i < ${#files[@]}; i++)); do INPUT_FACTS[${files[i]}]=${FACTS[i]:-}; done
}

# -------------------------------------------------------------------------------------------------------------------- run

# How the program ended is seen by a supervisor, a child that does nothing else and has no traps: in bash a trap that comes while
# `wait` collects a child can lose its status. `wait` gives 137 for exit 137 and for SIGKILL alike, but bash has words that tell them
# apart. Up to 5.2 a script's bash says on its standard error which of its jobs a signal killed, and nothing of those that exited.
# From 5.3 on it is silent about some signals; there `jobs` is asked, before `wait`, once the program is gone.

supervise() { # input: a child of its own; writes to the pipe: the program's id; bash's words about its end; its status; CPU times
    trap '' TERM INT HUP USR1
    trap 'printf "\0" >&9' EXIT # whoever waits for a word gets one
    set -m
    exec 2>&9
    launch < "$1" &
    printf '%s\0' "$!" >&9
    local status
    if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 503)); then
        tail -f -s 0.03 --pid="$!" /dev/null 4>&- 5>&- 9>&-
        jobs -l >&9
    fi
    while :; do
        wait "$!"
        status=$?
        kill -0 "$!" 2> /dev/null || break # else it was stopped, and has not ended
        sleep 0.5
    done
    printf '\0%s\0' "$status" >&9
    times >&9
    printf '\0' >&9
}

killed() { # bash's words: do they say that a signal killed the program?
    local line words=$1
    while [[ -n $words ]]; do
        line=${words%%$'\n'*} words=${words#"$line"}
        words=${words#$'\n'}
        [[ $line == *launch* ]] && { [[ ! $line =~ ^\[[0-9]+\][-+\ ]+[0-9]*\ +(Exit|Done) ]]; return; }
    done
    return 1
}

launch() { # env takes names that are no shell identifiers, and looks a bare name up in the job's own PATH
    trap - TERM INT HUP USR1
    cd -- "$START" && exec env -i -- "${ENVIRONMENT[@]}" "${COMMAND[@]}" >&4 2>&5 4>&- 5>&- 9>&-
}

cpu_times() { # what `times` says: user and system CPU of the supervisor's children, its second line
    [[ ${1#*$'\n'} =~ ([0-9]+)m([0-9]+)\.([0-9]+)s\ ([0-9]+)m([0-9]+)\.([0-9]+)s ]] || return
    printf -v USER_CPU '%d.%s' $((BASH_REMATCH[1] * 60 + 10#${BASH_REMATCH[2]})) "${BASH_REMATCH[3]}"
    printf -v SYSTEM_CPU '%d.%s' $((BASH_REMATCH[4] * 60 + 10#${BASH_REMATCH[5]})) "${BASH_REMATCH[6]}"
}

oom_kills() { # how often the kernel's out-of-memory killer struck in this container, into OOM_KILLS
    local key value cgroup=${GAHP_CGROUP:-/sys/fs/cgroup} file
    OOM_KILLS=0
    for file in "$cgroup/memory.events" "$cgroup/memory/memory.oom_control"; do
        [[ -r $file ]] || continue
        while read -r key value; do [[ $key == oom_kill ]] && OOM_KILLS=$value; done < "$file"
    done
}

peak_memory() { # of the container, in MiB, into PEAK
    local bytes cgroup=${GAHP_CGROUP:-/sys/fs/cgroup} file
    for file in "$cgroup/memory.peak" "$cgroup/memory/memory.max_usage_in_bytes"; do
        [[ -r $file ]] && read -r bytes < "$file" && [[ $bytes =~ ^[0-9]{1,18}$ ]] && PEAK=$(((bytes + 1048575) / 1048576))
    done
}

job_environment() { # the container's, without what is ours, then the job's own, which wins
    local pair
    ENVIRONMENT=()
    for pair in "${CONTAINER_ENV[@]}"; do
        case $pair in
            BATCH_FILE_* | GAHP_* | PWD=* | OLDPWD=* | _=* | SHLVL=*) ;;
            =* | '') ;;
            *) ENVIRONMENT+=("$pair") ;;
        esac
    done
    ENVIRONMENT+=("PWD=$START" "_CONDOR_SCRATCH_DIR=$SCRATCH")
    [[ ${SETTING[proxy]} == 1 ]] && ENVIRONMENT+=("X509_USER_PROXY=$WORK/proxy")
    ENVIRONMENT+=("${JOB_ENV[@]}")
}

run_program() {
    local shown=${SETTING[executable]} input=/dev/null supervisor status over=''
    local program=$shown
    [[ ${SETTING[staged]} == 1 ]] && program=$SCRATCH/$program
    [[ ${SETTING[stdin]} == 1 ]] && input=$WORK/stdin
    START=${SETTING[directory]:-$SCRATCH}
    [[ -d $START ]] || { fail start "The job's directory $START does not exist in the container. See that the job definition mounts what AWSBATCH_SHARED_DIRECTORIES says, and release the job."; return 1; }
    if [[ $program == */* ]]; then
        [[ $program == /* ]] || program=$SCRATCH/$program
        [[ -e $program ]] || { fail start "The program $shown does not exist in the container: correct the name, or let it be transferred."; return 1; }
        [[ -f $program && -x $program ]] || { fail start "The program $shown is not an executable file in the container: make it one, or name another."; return 1; }
    fi
    COMMAND=("$program" "${ARGUMENTS[@]}")
    [[ $program == *=* ]] && COMMAND=(nice -n 0 -- "${COMMAND[@]}") # env would take it for a variable; nice takes it for a program
    job_environment

    # Standard output and error go to files: complete, separate, and no reader can hold the program up. Copies go to the container's
    # log meanwhile. What the job throws away goes to the log only.
    if [[ ${SETTING[stdout]} == keep ]]; then exec 4> "$WORK/stdout"; else exec 4>&1; fi &&
        case ${SETTING[stderr]} in
            keep) exec 5> "$WORK/stderr" ;;
            stdout) exec 5>&4 ;;
            *) exec 5>&2 ;;
        esac || { fail start "The program's standard output and error cannot be written in $WORK: if the container's disk is full, raise request_disk; then release the job."; return 1; }

    oom_kills
    local kills=$OOM_KILLS
    now
    STARTED=$NOW STEP=run
    supervise "$input" &
    supervisor=$!
    exec 4>&- 5>&-
    while [[ -z $PROGRAM ]]; do # first look, then read: a supervisor that is over by now has written all it had to say
        running "$supervisor" || over=1
        IFS= read -r -d '' -t 1 -u 9 PROGRAM # not for ever: one that was killed has said nothing
        [[ -z $over ]] || break
    done
    [[ $TERMINATED == true && -n $PROGRAM ]] && kill -TERM -- "-$PROGRAM" 2> /dev/null # it came before PROGRAM was known
    follow "${SETTING[stdout]}" "$WORK/stdout" >&1
    follow "${SETTING[stderr]}" "$WORK/stderr" >&2
    await "$supervisor"
    STEP=stage_out
    now
    FINISHED=$NOW
    drain # what bash says, status, times
    [[ -z $PROGRAM ]] || end_descendants
    oom_kills
    ((OOM_KILLS > kills)) && OOM=true
    peak_memory
    status=${DRAINED[1]:-}
    if [[ -z $status ]]; then
        fail start "The program could not be started, or its supervisor was killed: if the container was out of memory, raise request_memory; then release the job."
        return 1
    fi
    cpu_times "${DRAINED[2]:-}"
    if [[ $status -gt 128 ]] && killed "${DRAINED[0]}"; then EXIT_SIGNAL=$((status - 128)); else EXIT_CODE=$status; fi
    [[ $EXIT_CODE != 12[67] ]] || not_started "$program" "$shown"
}

not_started() { # program, as shown: did env say that it could not be executed? Then this is no exit of the program
    local line='' file=$WORK/stderr
    [[ ${SETTING[stderr]} == stdout ]] && file=$WORK/stdout
    if [[ -r $file ]]; then IFS= read -r -n 5000 line < "$file"; fi
    if [[ $line == env:\ *"$1"*:\ * || $line == nice:\ *"$1"*:\ * ]]; then
        EXIT_CODE=null
        fail start "The program $2 cannot be executed in the container: ${line##*: }. If it is there, its interpreter is missing: name one that the image has."
    fi
}

follow() { # keep|..., file: copy what the program writes to the container's log, while it runs and the rest when it has ended
    [[ $1 == keep && -n $PROGRAM ]] || return 0
    tail -n +1 -s 0.05 -f --pid="$PROGRAM" -- "$2" 2> /dev/null 9>&- &
    TAILS+=("$!")
}
TAILS=()

end_descendants() { # what the program left behind goes: first its process group, then whoever has our scratch directory in the environment
    local place pair
    local -a pairs
    kill -KILL -- "-$PROGRAM" 2> /dev/null
    for place in /proc/[0-9]*; do
        { mapfile -d '' -t pairs < "$place/environ"; } 2> /dev/null
        for pair in "${pairs[@]}"; do
            [[ $pair == "_CONDOR_SCRATCH_DIR=$SCRATCH" ]] && kill -KILL "${place#/proc/}" 2> /dev/null
        done
        pairs=()
    done
}

# -------------------------------------------------------------------------------------------------------------- stage out

# The files to send, by position: name (relative to the work directory), kind, declaration, and the name that the list shows.
FILE=() KIND=() DECLARED=() SHOWN=()

add_file() { # kind declaration name-in-work shown
    FILE+=("$3") KIND+=("$1") DECLARED+=("$2") SHOWN+=("$4")
}

add_place() { LIST+=("$1" "$2" - 0 - 0 "$3"); } # kind (d: a directory, m: missing), declaration, name

walk() { # directory (relative to the scratch directory), declaration
    local entry name
    add_place d "$2" "$1"
    for entry in "$SCRATCH/$1"/*; do
        name=${1:+$1/}${entry##*/}
        if [[ -L $entry && -d $entry ]]; then
            say "not sent: $name is a symbolic link to a directory"
        elif [[ -d $entry ]]; then
            walk "$name" "$2"
        elif [[ -f $entry ]]; then
            add_file f "$2" "scratch/$name" "$name"
        elif [[ -L $entry ]]; then
            say "not sent: $name is a symbolic link to nothing"
            add_place m "$2" "$name"
        else
            say "not sent: $name is neither a file nor a directory"
        fi
    done
}

find_outputs() {
    local i name file
    local -a files=()
    [[ ${SETTING[stdout]} == keep && -f $WORK/stdout ]] && add_file o - stdout stdout
    [[ ${SETTING[stderr]} == keep && -f $WORK/stderr ]] && add_file e - stderr stderr
    if [[ ${SETTING[outputs]} == auto ]]; then
        for file in "$SCRATCH"/*; do [[ -f $file ]] && files+=("$file"); done
        ((${#files[@]})) || return 0
        facts "${files[@]}"
        for ((i = 0; i < ${#files[@]}; i++)); do
            [[ ${INPUT_FACTS[${files[i]}]:-} == "${FACTS[i]:-gone}" ]] || add_file f - "scratch/${files[i]##*/}" "${files[i]##*/}"
        done
        return 0
    fi
    for ((i = 0; i < ${#OUTPUTS[@]}; i++)); do # with a slash at its end: the contents of a directory; only a slash: of all
        name=${OUTPUTS[i]%/}
        file=$SCRATCH/$name
        if [[ /$name/ == */../* ]]; then
            say "not sent: $name leads out of the scratch directory"
        elif [[ -d $file ]]; then
            walk "$name" "$i"
        elif [[ -f $file ]]; then
            add_file f "$i" "scratch/$name" "$name"
        else
            say "the output $name was not made"
            add_place m "$i" "$name"
        fi
    done
}

keep_streams() { # of all that was found
    local i count=0
    LIST=()
    for i in "${!FILE[@]}"; do [[ ${KIND[i]} == [oe] ]] && count=$((i + 1)); done
    FILE=("${FILE[@]:0:count}")
}

s3_target() { # shown declaration: the URL that the user mapped this file to, or nothing, into TARGET
    local top landing=$1 rest name url
    if [[ $2 != - ]]; then
        top=${OUTPUTS[$2]}
        if [[ $top == */ ]]; then landing=${1#"$top"}; else landing=${top##*/}${1#"$top"}; fi
    fi
    TARGET=
    ((${#REMAP[@]})) || return
    for name in "$1" "$landing"; do # the name itself, then the directories above it
        rest=
        while :; do
            url=${REMAP[$name]:-}
            if [[ -n $url ]]; then
                case $rest$url in
                    -) ;; # mapped to a place on the submit host
                    s3://*/) TARGET=$url${1##*/} ;;
                    *) [[ $url == - ]] || TARGET=${url%/}$rest ;;
                esac
                return
            fi
            [[ $name == */* ]] || break
            rest=/${name##*/}$rest
            name=${name%/*}
        done
    done
}

place_files() { # decide how each file travels: r inside the result, oN an object of its own, p0 in a pack of small ones, s3 to a URL of the user's
    local i size inside=0 file
    local -A known=()
    PLACE=() SIZE=() MODE=() URL=() # by position in FILE
    UPLOAD=()                       # positions to send on their own
    for ((i = 0; i < ${#FILE[@]}; i += 500)); do
        BATCH=("${FILE[@]:i:500}")
        cd -- "$WORK" && lines_of stat -L -c '%s %a'
        SIZE+=("${LINES[@]}")
    done
    for ((i = 0; i < ${#FILE[@]}; i++)); do
        file=${FILE[i]} size=${SIZE[i]:-0 0} TARGET=
        MODE[i]=${size#* } size=${size% *}
        SIZE[i]=$size
        [[ ${KIND[i]} == f ]] && s3_target "${SHOWN[i]}" "${DECLARED[i]}"
        if [[ -n $TARGET ]]; then
            PLACE[i]=s3 URL[i]=$TARGET UPLOAD+=("$i")
        elif [[ -n ${known[$file]:-} ]]; then
            PLACE[i]=${known[$file]}
        elif ((size > MAX_INSIDE)); then
            PLACE[i]=o$i URL[i]=$RESULT_URL/out/$i UPLOAD+=("$i")
        elif ((inside + size + 1024 <= MAX_RESULT)); then
            PLACE[i]=r inside=$((inside + size + 1024))
        else
            PLACE[i]=p0
        fi
        [[ -n $TARGET ]] || known[$file]=${PLACE[i]}
        SENT=$((SENT + size))
    done
}

hash_small() { # SHA-256 of what travels inside the result or the pack, into SHA by position; then what goes where: MEMBERS and PACKED
    local i j sum
    local -a positions=() batch=()
    local -A packed=()
    SHA=() PACKED=() PACK_BYTES=0
    for ((i = 0; i < ${#FILE[@]}; i++)); do [[ ${PLACE[i]} == [rp]* ]] && positions+=("$i"); done
    for ((i = 0; i < ${#positions[@]}; i += 200)); do
        ((ALARMS > 1)) && { fail stage_out "The container was told to end before all outputs were sent: raise batch_runtime, and release the job to run it again."; break; }
        batch=("${positions[@]:i:200}") BATCH=()
        for j in "${batch[@]}"; do BATCH+=("$WORK/${FILE[j]}"); done
        lines_of sha256sum
        for j in "${!batch[@]}"; do
            sum=${LINES[j]#\\}
            SHA[batch[j]]=${sum:0:64}
        done
    done
    for i in "${positions[@]}"; do
        if [[ -z ${SHA[i]:-} ]]; then
            say "not sent: ${SHOWN[i]} could not be read"
        elif [[ -z ${packed[${FILE[i]}]:-} ]]; then
            packed[${FILE[i]}]=1
            if [[ ${PLACE[i]} == r ]]; then MEMBERS+=("${FILE[i]}"); else PACKED+=("${FILE[i]}") PACK_BYTES=$((PACK_BYTES + SIZE[i] + 2048)); fi
        fi
    done
}

pack_stream() { # file...: a tar of them, links followed
    tar -c --format=gnu -h --hard-dereference --no-recursion --owner=0 --group=0 --numeric-owner -C "$WORK" --null -T <(printf '%s\0' "$@") -f -
}

send_one() { # position|pack: a child of its own; says what it sent in the pipe
    local try sum=-
    for try in 1 2 3; do
        if [[ $1 == pack ]]; then
            pack_stream "${PACKED[@]}" | s3_put "$RESULT_URL/out/p0" "$PACK_BYTES"
        else
            sum=$(sha256sum < "$WORK/${FILE[$1]}") && sum=${sum:0:64} && s3_put "${URL[$1]}" "${SIZE[$1]}" < "$WORK/${FILE[$1]}"
        fi
        [[ ${PIPESTATUS[*]} == "0" || ${PIPESTATUS[*]} == "0 0" ]] && { printf '%s %s\0' "$1" "$sum" >&9; return 0; }
        sleep $((RETRY_DELAY * try))
    done
    return 1
}

send_some() { # position...: a child of its own, four uploads at a time
    local position count=0
    for position in "$@"; do
        (((count += 1) > 4)) && wait -n
        send_one "$position" &
    done
    wait
}

send_large() { # everything that goes before the result; sets SHA, and marks what could not be sent
    local i text position
    local -A sent=()
    ((${#PACKED[@]})) && UPLOAD+=(pack)
    for ((i = 0; i < ${#UPLOAD[@]}; i += 256)); do # so few that their words fit into the pipe
        ((ALARMS > 1)) && break
        attend send_some "${UPLOAD[@]:i:256}"
        for text in "${DRAINED[@]}"; do sent[${text% *}]=${text#* }; done
    done
    for position in "${UPLOAD[@]}"; do
        if [[ $position == pack ]]; then
            [[ -n ${sent[pack]:-} ]] && continue
            for i in "${!PLACE[@]}"; do [[ ${PLACE[i]} == p0 ]] && PLACE[i]=; done
            fail stage_out "${#PACKED[@]} small outputs could not be uploaded to $RESULT_URL/out: let the job role write there, and release the job to run it again."
        elif [[ -n ${sent[$position]:-} ]]; then
            SHA[position]=${sent[$position]}
        else
            PLACE[position]=
            fail stage_out "The output ${SHOWN[position]} could not be uploaded to ${URL[position]}: let the job role write there, and release the job to run it again."
        fi
    done
}

list_files() {
    local i j
    for ((i = 0; i < ${#FILE[@]}; i++)); do
        if [[ ${PLACE[i]} == o* && ${PLACE[i]} != "o$i" ]]; then # the same file under a second declaration
            j=${PLACE[i]#o}
            SHA[i]=${SHA[j]:-} PLACE[i]=${PLACE[j]}
        fi
        if [[ -n ${PLACE[i]} && -n ${SHA[i]:-} ]]; then
            LIST+=("${KIND[i]}" "${DECLARED[i]}" "${PLACE[i]}" "${SIZE[i]}" "${SHA[i]}" "${MODE[i]}" "${SHOWN[i]}")
        else
            add_place m "${DECLARED[i]}" "${SHOWN[i]}"
        fi
    done
}

stage_out() {
    local usage
    STEP=stage_out
    find_outputs
    if ((${#FILE[@]} + ${#LIST[@]} / 7 > MAX_FILES)); then
        fail stage_out "The job made more than $MAX_FILES output files: let it pack them into an archive."
        keep_streams
    fi
    place_files
    hash_small
    ((${#UPLOAD[@]} + ${#PACKED[@]})) && send_large
    list_files
    attend disk_usage
    usage=${DRAINED[0]:-}
    [[ $usage =~ ^[0-9]+$ ]] && DISK=$usage
}

disk_usage() {
    local usage
    usage=$(du -sk -- "$SCRATCH" 2> /dev/null)
    printf '%s\0' "${usage%%[!0-9]*}" >&9
}

# ---------------------------------------------------------------------------------------------------------------- result

json_text() { # into JSON_TEXT: quotes and backslashes escaped, control characters made spaces
    JSON_TEXT=${1:0:3000}
    JSON_TEXT=${JSON_TEXT//[[:cntrl:]]/ }
    JSON_TEXT=${JSON_TEXT//\\/\\\\}
    JSON_TEXT=\"${JSON_TEXT//\"/\\\"}\"
}

exit_json() { # phase message: into JSON; runner_exit is what a second attempt ends with when it finds this result
    local phase message
    RUNNER_EXIT=125
    if [[ -z $1 && $EXIT_CODE != null ]]; then RUNNER_EXIT=$EXIT_CODE
    elif [[ -z $1 && $EXIT_SIGNAL != null ]]; then RUNNER_EXIT=$((128 + EXIT_SIGNAL)); fi
    json_text "$1" && phase=$JSON_TEXT
    json_text "$2" && message=$JSON_TEXT
    printf -v JSON '{"version": 1, "runner_exit": %s, "terminated": %s, "phase": %s, "exit_code": %s, "exit_signal": %s, "oom": %s, "attempt": %s, "started": %s, "finished": %s, "user_cpu_s": %s, "system_cpu_s": %s, "peak_memory_mib": %s, "disk_kib": %s, "bytes_sent": %s, "bytes_received": %s, "message": %s}\n' \
        "$RUNNER_EXIT" "$TERMINATED" "$phase" "$EXIT_CODE" "$EXIT_SIGNAL" "$OOM" "$ATTEMPT" "$STARTED" "$FINISHED" "$USER_CPU" "$SYSTEM_CPU" "$PEAK" "$DISK" "$SENT" "$RECEIVED" "$message"
}

tar_header() { # name size: the header of a regular file, made by hand because tar would need the file on a disk
    local size sum=256 i text code # 256: the checksum field itself counts as eight spaces
    printf -v size '%011o' "$2"
    text="${1}000060000000000000000${size}000000000000ustar  " # name, mode, owner, group, size, time, type and magic
    for ((i = 0; i < ${#text}; i++)); do
        printf -v code '%d' "'${text:i:1}"
        sum=$((sum + code))
    done
    printf '%s' "$1"
    nuls $((100 - ${#1}))
    printf '0000600\0000000000\0000000000\000%s\00000000000000\000%06o\000 0' "$size" "$sum" # \000 is one byte
    nuls 100
    printf 'ustar  \0'
    nuls 247
}

result_stream() {
    local size=0 field
    tar_header exit.json ${#JSON}
    printf '%s' "$JSON"
    nuls $((-${#JSON} & 511))
    for field in "${LIST[@]}"; do size=$((size + ${#field} + 1)); done
    tar_header files "$size"
    ((size)) && printf '%s\0' "${LIST[@]}"
    nuls $((-size & 511))
    if ((${#MEMBERS[@]})); then pack_stream "${MEMBERS[@]}"; else nuls 512 && nuls 512; fi
}

put_result() { # a child of its own; says what became of it
    local -a status
    result_stream | s3_put "$RESULT_URL/result" "$MAX_RESULT"
    status=("${PIPESTATUS[@]}")
    if ((status[1] != 0)); then return; fi
    if ((status[0] == 0)); then printf 'sent\0' >&9; else printf 'changed\0' >&9; fi
}

send_result() {
    local try
    for try in 1 2 3 4 5; do
        exit_json "$PHASE" "$MESSAGE"
        attend put_result
        case ${DRAINED[0]:-} in
            sent) return 0 ;;
            changed) # a member changed or went away while it was sent: better less than wrong
                fail stage_out "Outputs changed while they were being sent: let the program wait for what it started, and release the job to run it again."
                MEMBERS=() LIST=()
                ;;
        esac
        say "could not upload $RESULT_URL/result, try $try"
        sleep $((RETRY_DELAY * try * try))
    done
    return 1
}

cut_log() { sleep 5; for tail in "${TAILS[@]}"; do kill -KILL -- "-$tail"; done; }

finish_log() { # the copies of standard output and error end by themselves soon after the program; a log that nobody reads may not hold us up
    local tail
    ((${#TAILS[@]})) || return 0
    helper cut_log
    for tail in "${TAILS[@]}"; do await "$tail"; done
}

get_earlier() { # file: a child of its own; says "fetched" or "absent" in the pipe, or nothing when S3 says neither
    local try text
    for try in 1 2 3 4; do
        text=$(s3_get "$RESULT_URL/result" "$1" 2>&1) && { printf 'fetched\0' >&9; return; }
        absent "$text" "$RESULT_URL" && { printf 'absent\0' >&9; return; }
        say "cannot read $RESULT_URL/result: $text"
        sleep $((RETRY_DELAY * try))
    done
}

earlier_result() { # of an attempt before this one, when it is final: its exit code into RUNNER_EXIT; 1: there is none, 2: S3 does not say
    ((ATTEMPT > 1)) || return 1
    local text
    local file=$WORK/earlier
    attend get_earlier "$file"
    [[ ${DRAINED[0]:-} != absent ]] || return 1
    [[ ${DRAINED[0]:-} == fetched ]] || return 2
    { text=$(tail -c 1024 -- "$file"); } 2> /dev/null
    [[ -z $text ]] && text=$(tar -tf "$file" > /dev/null 2>&1 && tar -xO -f "$file" exit.json 2> /dev/null) # to the zeroes at its end
    rm -f -- "$file"
    [[ $text =~ ^\{\"version\":\ 1,\ \"runner_exit\":\ ([0-9]+),\ \"terminated\":\ false,\ \"phase\":\ \"\", ]] || return 1
    RUNNER_EXIT=${BASH_REMATCH[1]}
    say "attempt $ATTEMPT: the job ended in an earlier attempt, its result is in S3; not run again"
}

finish() { # exit code
    local helper
    finish_log
    for helper in "${HELPERS[@]}"; do kill -KILL -- "-$helper" 2> /dev/null; done
    cd /
    [[ -n $WORK ]] && { rm -rf -- "$WORK" 2> /dev/null || { chmod -R u+rwX -- "$WORK"; rm -rf -- "$WORK"; } 2> /dev/null; }
    rm -f -- "$SELF"
    exit "$1"
}

main() {
    ((10#$PAYLOAD)) || { say "nothing is packed behind $SELF: this is a part of awsbatch_gahp, not a program to call"; exit 2; }
    open_pipe
    trap on_term TERM INT HUP
    trap on_alarm USR1
    [[ -z $EARLY ]] || on_term
    if command -v s5cmd > /dev/null; then S3_TOOL=s5cmd
    elif command -v aws > /dev/null; then S3_TOOL=aws
    else say "neither s5cmd nor aws is on the container's PATH ($PATH): the image needs one of them"; finish 125; fi
    ((DIRECTORY)) && RUN_URL=$PACK_URL ROOT_URL=${PACK_URL%/runs/*}
    [[ $RUN_URL == s3://*/runs/?* ]] || { say "GAHP_RUN_URL is missing or no s3:// URL: this job was not submitted by awsbatch_gahp"; finish 125; }
    [[ $ATTEMPT =~ ^[1-9][0-9]{0,3}$ ]] || ATTEMPT=1
    RUNNER_EXIT=125
    if stage_in; then
        if [[ $TERMINATED == true ]]; then fail stage_in "The container was told to end before the program was started: raise batch_runtime if the time limit was reached, and release the job."
        else run_program; fi
        stage_out
    fi
    STEP=commit
    [[ $RUN_URL != "$PACK_URL" ]] || finish 125 # it does not know which run it is
    may_speak || { say "no result is written: the run is not this Batch job's"; finish 125; }
    send_result || { say "the result could not be uploaded; giving up"; RUNNER_EXIT=125; }
    finish "$RUNNER_EXIT"
}

main
exit 125
