#compdef hmcnotifyd
# Completion of hmcnotifyd for zsh: a file _hmcnotifyd in a directory of $fpath.
_hmcnotifyd() {
    local -a found
    found=(${(f)"$("${words[1]}" --completion-bash "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if [[ "$found" == ":files" ]]; then
        [[ $words[CURRENT] == --*=* ]] && compset -P '--*='
        _files
    else
        compadd -a found
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _hmcnotifyd "$@"
else
    compdef _hmcnotifyd hmcnotifyd
fi
