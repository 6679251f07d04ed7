<?php
// The front page. ?read=PATH shows what this tenant can read: an example for a
// machine of your own, not for the Internet.
header('Content-Type: text/plain; charset=utf-8');

printf("shop, as uid %d\n", posix_getuid());

if (isset($_GET['read'])) {
    $text = @file_get_contents((string) $_GET['read']);
    echo $text === false ? "cannot read {$_GET['read']}\n" : $text;
}
