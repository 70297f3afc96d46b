# What people do in a shell: job control, pipes, here documents, the tools of coreutils and procps.
set +e
cd /tmp || exit
mkdir -p a/b && echo text >a/file && cat <<HERE >>a/file
more
HERE
ls -la --color=always a /proc/self/fd | head -50; ls -Z a; ls -lR /usr/share 2>/dev/null | tail -1; dir a; vdir a
cp -a a c; cp --reflink=auto a/file d; cp --sparse=always a/file e; mv d f; ln a/file g; ln -s a/file h; link a/file i; unlink i
chmod 600 f; chown "$(id -u)" f; chgrp "$(id -g)" f; touch -d yesterday f; touch -h h; truncate -s 5 f; install -m 700 f j
readlink -f h; realpath h; stat f; stat -f .; df -h . 2>/dev/null; du -sh .; find . 2>/dev/null | wc; test -w f; [ -x f ]
mkfifo pipe; (echo x >pipe &); cat pipe; mktemp; mktemp -d; rm -rf c; rmdir a/b; shred -u e; dd if=/dev/zero of=z bs=1k count=8 conv=fsync
sync f 2>/dev/null; split -b 1k z; csplit a/file 1; cat x* | od | tail -1; sort -R a/file; sort --parallel=2 a/file; shuf a/file; uniq a/file; cut -c1 a/file
comm a/file a/file; join a/file a/file; paste a/file; fmt a/file; fold a/file; nl a/file; pr a/file | head -1; expand a/file; unexpand a/file; tac a/file; rev a/file 2>/dev/null
head -c 3 a/file; tail -n1 a/file; timeout 1 tail -f --pid=$$ a/file; wc a/file; tr a b <a/file; tee t <a/file; md5sum f; sha256sum f; b2sum f; cksum f; base64 f; base32 f; basenc --base16 f
date; date -u +%N; cal 2>/dev/null; uptime; uname -a; hostname; arch; nproc; id; whoami; groups; logname; users; who; tty; stty -a; stty size; stty raw; stty sane
env | sort | head -1; printenv PATH; printf '%s\n' x; echo x; expr 1 + 1; factor 12; seq 3; numfmt 1000; true; false; yes | head -1000 | tail -1; sleep 0.1; nice -n 5 true
nice; nohup true 2>/dev/null; timeout 0.2 sleep 1; timeout -s KILL 0.2 sleep 1; stdbuf -oL echo x; pathchk f; chroot / true 2>/dev/null; mknod n p; dircolors | head -1
ulimit -a; ulimit -n 100; umask 27; times; hash ls; type ls; kill -l >/dev/null; kill -0 $$; (sleep 5 & kill $!; wait); trap 'echo trapped' USR1; kill -USR1 $$
ps aux; ps -ef --forest; ps -eLf; pgrep sh; pidof sh; pkill nothing; pmap $$ 2>/dev/null | tail -1; pwdx $$; free; vmstat; vmstat 1 2; w; top -bn1 | head -5; sysctl kernel.ostype 2>/dev/null
slabtop -o 2>/dev/null | head -1; tload -V; timeout --foreground 2 watch -n 1 true; skill -l >/dev/null; snice -l >/dev/null 2>&1; pidwait nothing 2>/dev/null; tput cols; infocmp | head -1; clear
grep x a/file; sed s/t/u/ a/file; awk '{print}' a/file; echo x | xargs echo; find . -newer f -exec true {} + 2>/dev/null; diff a/file f; cmp a/file f; tar cf t.tar a 2>/dev/null; gzip -k f 2>/dev/null
coproc { true; }; echo >/dev/tcp/127.0.0.1/9; echo >/dev/udp/127.0.0.1/9; cat < <(echo substituted); echo $(<a/file); let x=1+1; mapfile -t lines <a/file; read -rt 0.1 x </dev/zero
select x in a; do break; done <<<1; time true; wait; history | tail -1; fc -l 2>/dev/null | tail -1; getconf ARG_MAX 2>/dev/null; ldd /bin/ls 2>/dev/null; locale 2>/dev/null; getent hosts endpoint.invalid; getent passwd; iconv -l 2>/dev/null | head -1
exit 0
