<?php
// Greets, and tells which process answered: after an idle stop it is a new one.
header('Content-Type: text/plain; charset=utf-8');

printf("Hello from %s\n", $_SERVER['SCRIPT_NAME'] ?? __FILE__);
printf("PHP %s, process %d, uid %d, host name %s\n", PHP_VERSION, getmypid(), process_uid(), gethostname());

/** The uid of this process. getmyuid() tells the owner of the file instead. */
function process_uid(): int
{
    return function_exists('posix_getuid') ? posix_getuid() : (int) fileowner('/proc/self');
}
