<?php
// What a script can see of the machine: run it outside and inside to compare.
header('Content-Type: text/plain; charset=utf-8');

$entries = fn (string $dir): array => array_values(array_diff(@scandir($dir) ?: [], ['.', '..']));
$processes = array_filter($entries('/proc'), ctype_digit(...));
$accounts = array_map(fn ($line) => strtok($line, ':'), @file('/etc/passwd', FILE_IGNORE_NEW_LINES) ?: []);
$interfaces = array_filter(array_map(
    fn ($line) => str_contains($line, ':') ? trim(strtok($line, ':')) : null,
    @file('/proc/net/dev') ?: [],
));
$status = preg_grep('/^(Uid|CapEff|NoNewPrivs|Seccomp):/', @file('/proc/self/status', FILE_IGNORE_NEW_LINES) ?: []);

$writable = array_filter(
    ['/', '/etc', '/usr', '/tmp', __DIR__, session_save_path() ?: '/tmp'],
    function (string $dir): bool {
        $probe = $dir . '/.howdah-' . getmypid();
        return @file_put_contents($probe, '') !== false && @unlink($probe);
    },
);

echo 'files of /:  ', implode(' ', $entries('/')), "\n";
echo 'processes:   ', implode(' ', $processes), "\n";
echo 'accounts:    ', implode(' ', $accounts), "\n";
echo 'interfaces:  ', implode(' ', $interfaces) ?: 'not to be seen', "\n";
echo 'can write:   ', implode(' ', array_unique($writable)) ?: 'nowhere', "\n";
echo 'status:      ', implode(', ', array_map(fn ($line) => strtr($line, "\t", ' '), $status)), "\n";
