# Completion of hmcnotifyd for fish.
function __hmcnotifyd_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    set -l found ($words[1] --completion-bash $words[2..-1] "$cur" 2>/dev/null)
    if test "$found" = ":files"
        if string match -qr '^--[^=]*=' -- "$cur"
            set -l flag (string replace -r '=.*' '=' -- "$cur")
            for path in (__fish_complete_path (string replace -r '^--[^=]*=' '' -- "$cur"))
                printf '%s%s\n' $flag $path
            end
        else
            __fish_complete_path "$cur"
        end
    else
        printf '%s\n' $found
    end
end
complete -c hmcnotifyd -f -a '(__hmcnotifyd_complete)'
