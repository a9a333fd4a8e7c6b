#!/bin/bash
# Runs one task of a pegasus-aws-batch run in its container. The image's entry point fetches and starts it.
#
#   PEGASUS_AWS_BATCH_TASKS   s3://BUCKET/KEY of the task lists; page N of them is KEY/N (see tasklist.py for the form)
#   AWS_BATCH_JOB_ARRAY_INDEX which task it is; not set: 0
#
# A task may set PEGASUS_AWS_BATCH_GRACE_S: the seconds that it has for its own end after SIGTERM (15; AWS Batch kills after 30).
# It stays the parent of the task, for three reasons: a stop reaches every process of the task and not just the first; the stderr
# that Pegasus's launcher keeps in a file is written out even when the launcher is killed; and the last line of the log says that
# the log is complete. Exit codes are the task's, and those of image/fetch_and_run.sh.
set -u

readonly TRIES=4 PAGE=100
readonly SEPARATOR='########################[AWS BATCH] TASK STDERR ########################'
readonly ENDED='########################[AWS BATCH] TASK ENDED ########################'

finish() {
    printf '%s\n' "$ENDED"
    exit "$1"
}

fail() {
    local code=$1
    shift
    printf '%s\nrun_task: %s\n' "$SEPARATOR" "$*"
    finish "$code"
}

have() { command -v "$1" >/dev/null 2>&1; }

fetch_once() {
    if have s5cmd && s5cmd --log error cp --raw "$1" "$2"; then
        return 0
    fi
    have aws && aws s3 cp --only-show-errors "$1" "$2"
}

fetch() {
    local try
    for ((try = 1; try <= TRIES; try++)); do
        fetch_once "$1" "$2" && return 0
        ((try < TRIES)) && sleep "$((try * try))"
    done
    fail 69 "cannot fetch $1 (tried $TRIES times): does it exist, and may this job's role read it?"
}

folder=$(mktemp -d) || fail 73 "cannot make a temporary directory in ${TMPDIR:-/tmp}"
trap 'rm -rf "$folder"' EXIT

index=${AWS_BATCH_JOB_ARRAY_INDEX:-0}
fetch "${PEGASUS_AWS_BATCH_TASKS:?}/$((index / PAGE))" "$folder/tasks"
fields=()
while IFS= read -r -d '' field; do
    fields+=("$field")
done < <(sed -n "$((index % PAGE + 1))p" "$folder/tasks" | base64 -d)
((${#fields[@]})) || fail 65 "there is no task $index in $PEGASUS_AWS_BATCH_TASKS"
count=${fields[0]}
# Pegasus's launcher writes stderr there; a task's own choice comes later and wins.
variables=("task_stderr_file=$folder/stderr" "${fields[@]:1:count}")
type=${fields[count + 1]} url=${fields[count + 2]} executable=${fields[count + 3]}
arguments=("${fields[@]:count + 4}")
stderr_file='' grace=15
for variable in "${variables[@]}"; do
    case $variable in
    task_stderr_file=*) stderr_file=${variable#*=} ;;
    PEGASUS_AWS_BATCH_GRACE_S=*) grace=${variable#*=} ;;
    esac
done

case $type in
script)
    command=$folder/script
    fetch "$url" "$command"
    ;;
zip)
    have unzip || fail 69 'unzip is not installed in this image'
    fetch "$url" "$folder/archive.zip"
    mkdir "$folder/content" && cd "$folder/content" || fail 73 "cannot make $folder/content"
    unzip -q "$folder/archive.zip" || fail 65 "$url is not a zip archive, or there is no room to unpack it"
    [[ -f $executable ]] || fail 65 "there is no file \"$executable\" in $url"
    command=./$executable
    ;;
*) fail 64 "BATCH_FILE_TYPE is \"$type\": use \"script\" or \"zip\"" ;;
esac
chmod u+x "$command" || fail 73 "cannot make $command executable"

# With job control the task gets a process group of its own, which a stop is sent to.
set -m
# What bash has to say of its jobs does not belong into the log.
exec 3>&2 2>/dev/null
env -- "${variables[@]}" "$command" ${arguments[@]+"${arguments[@]}"} 2>&3 3>&- &
task=$!
killer=
stop() {
    kill -TERM -- "-$task"
    if [[ -z $killer ]]; then
        { sleep "$grace"; kill -KILL -- "-$task"; } &
        killer=$!
    fi
}
trap stop TERM INT HUP
# A signal ends `wait` early: only when the task is gone is the code its own.
while
    wait "$task"
    code=$?
    kill -0 "$task"
do :; done
trap '' TERM INT HUP
if [[ -n $killer ]]; then
    # Its children have the rest of the time.
    while kill -0 -- "-$task" && kill -0 "$killer"; do sleep 0.1; done
    kill -KILL -- "-$killer"
fi
# What the task left running must not write behind the end of the log.
kill -KILL -- "-$task"

# A launcher that a signal ended could not write it out. One that could has done so: the reader drops what comes twice.
if ((code >= 128)) && [[ -n $stderr_file && -s $stderr_file ]]; then
    printf '%s\n' "$SEPARATOR"
    cat "$stderr_file"
fi
finish "$code"
