# Running a command with its output in $LOG and its progress on the screen; sourced by setup_env.sh.
# shellcheck shell=bash

say() { printf '      %s\n' "$1"; }
step() { printf '[%d/%d] %s\n' "$1" "$STEPS" "$2"; }
elapsed() { printf '%d:%02d' $((($1) / 60)) $((($1) % 60)); }

still_working() { echo 'still working'; }

stop_child() {
    if [[ -n $CHILD ]]; then kill -TERM -- "-$CHILD" 2>/dev/null || true; fi
    [[ -z $TEMPORARY ]] || rm -rf "$TEMPORARY"
}
# die leaves with status 2, so that status 1 is a command that failed where none was expected to.
leave() {
    local status=$?
    stop_child
    if ((status == 1)); then printf 'error: the setup stopped unexpectedly; its output is in %s.\n' "$LOG" >&2; fi
}
interrupted() {
    stop_child
    printf '\nInterrupted; run the same command again to go on from here.\n' >&2
    exit 130
}

# try WHAT COMMAND...: runs a command with its output in the log and reports every 15 seconds, through
# the function named in PROGRESS if there is one. The command has a process group of its own,
# so that an interruption ends everything below it.
try() {
    local what=$1 begin=$SECONDS last=$SECONDS status=0
    shift
    LOG_MARK=$(($(wc -c <"$LOG") + 1))
    printf '\n$ %s\n' "$*" >>"$LOG"
    set -m
    "$@" >>"$LOG" 2>&1 </dev/null &
    CHILD=$!
    set +m
    while kill -0 "$CHILD" 2>/dev/null; do
        if ((SECONDS - begin < 2)); then sleep 0.05; else sleep 0.5; fi
        if ((SECONDS - last >= 15)); then
            last=$SECONDS
            say "$what: $(${PROGRESS:-still_working} $((SECONDS - begin))), $(elapsed $((SECONDS - begin))) so far"
        fi
    done
    wait "$CHILD" || status=$?
    CHILD=''
    return $status
}

# must WHAT COMMAND...: like try, but a failure ends the script with the end of the log and one sentence.
must() {
    try "$@" || explain_failure "$1"
}

explain_failure() {
    local text
    text=$(tail -c "+$LOG_MARK" "$LOG")
    printf '\nThe end of %s:\n' "$LOG" >&2
    tail -n 15 <<<"$text" | cut -c1-400 >&2
    printf '\n' >&2
    if grep -qiE 'No space left on device|Errno 28|Disk quota exceeded' <<<"$text"; then
        die "the disk is full ($1): free about 12 GB and run this again."
    fi
    if grep -qiE 'NewConnectionError|ConnectTimeout|Read timed out|name resolution|Network is unreachable|Connection refused|ProxyError|SSLError|Max retries exceeded|Connection broken|Connection aborted' <<<"$text"; then
        die "pip could not reach a package index ($1): $NETWORK_HELP"
    fi
    if grep -qiE 'No matching distribution found|Could not find a version' <<<"$text"; then
        die "the package index lacks what is needed ($1): $NETWORK_HELP"
    fi
    if grep -qiE 'Killed signal terminated program|Cannot allocate memory|virtual memory exhausted' <<<"$text"; then
        die "memory ran out ($1): run this again with MAX_JOBS=1."
    fi
    die "$1 failed; the whole output is in $LOG."
}

pip() { "$PY" -m pip "$@"; }
