<?php
// Uses what sites use, and prints one line for each thing: the same lines with
// and without a wall. Whatever differs between two runs (times, ids) is not printed.
error_reporting(E_ALL);
ini_set('display_errors', '1');
ini_set('html_errors', '0');
$dir = $_SERVER['SCRATCH'];

function line(string $name, callable $try): void
{
    try {
        $result = $try();
    } catch (Throwable $e) {
        $result = get_class($e) . ': ' . $e->getMessage();
    }
    echo $name, ': ', json_encode($result), "\n";
}

session_save_path($dir);
line('session', function () {
    session_id('abc');
    $started = session_start();
    $_SESSION['n'] = 1;
    return [$started, session_write_close(), session_start(), $_SESSION['n'], session_destroy()];
});
line('files', function () use ($dir) {
    $f = fopen("$dir/a", 'c+');
    $r = [flock($f, LOCK_EX), fwrite($f, "hello\n"), fflush($f), fsync($f), fdatasync($f), ftruncate($f, 3)];
    fclose($f);
    $r[] = copy("$dir/a", "$dir/b");
    $r[] = rename("$dir/b", "$dir/c");
    $r[] = chmod("$dir/c", 0640);
    $r[] = touch("$dir/c", 1);
    $r[] = stat("$dir/c")['mtime'];
    $r[] = mkdir("$dir/d") && rmdir("$dir/d");
    $r[] = is_writable("$dir/c");
    $r[] = disk_free_space($dir) > 0;
    $r[] = is_string(tempnam($dir, 'x'));
    $r[] = fwrite(tmpfile(), 'x');
    $r[] = is_array(scandir($dir)) && umask(022) >= 0 && chdir($dir) && getcwd() === $dir;
    return $r;
});
line('links', fn () => [@symlink('c', "$dir/l"), @link("$dir/c", "$dir/h"), @readlink("$dir/l")]);
line('owners', fn () => @chown("$dir/c", posix_getuid()));
line('fifo', fn () => posix_mkfifo("$dir/fifo", 0600));
line('iterators', fn () => iterator_count(new FilesystemIterator($dir)) > 2);
line('sqlite', function () use ($dir) {
    $db = new PDO("sqlite:$dir/db");
    $db->exec('PRAGMA journal_mode=WAL');
    $db->exec('CREATE TABLE t (n)');
    $db->beginTransaction();
    $db->exec('INSERT INTO t VALUES (1), (2)');
    $db->commit();
    return (int) $db->query('SELECT sum(n) FROM t')->fetchColumn();
});
line('mysql', function () {
    mysqli_report(MYSQLI_REPORT_OFF);
    return @mysqli_connect('127.0.0.1', 'x', 'x', 'x', 1) ? 'connected' : mysqli_connect_errno();
});
line('curl', function () {
    $server = stream_socket_server('tcp://127.0.0.1:0');
    $name = stream_socket_get_name($server, false);
    $answer = '$c = stream_socket_accept(STDIN, 5); fread($c, 4096);'
        . 'fwrite($c, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi");';
    $child = proc_open(["php" . PHP_MAJOR_VERSION . "." . PHP_MINOR_VERSION, '-n', '-r', $answer], [0 => $server], $pipes);
    $curl = curl_init("http://$name/");
    curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 5, CURLOPT_TCP_KEEPALIVE => 1]);
    return [curl_exec($curl), curl_getinfo($curl, CURLINFO_HTTP_CODE), proc_close($child)];
});
line('curl by name', function () {
    $curl = curl_init('http://no-such-name.invalid/');
    curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 5]);
    return [curl_exec($curl), curl_errno($curl)];
});
line('curl localhost', function () {
    $curl = curl_init('http://localhost:1/');
    curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 5]);
    return [curl_exec($curl), curl_errno($curl)];
});
line('dns', fn () => [gethostbyname('no-such-name.invalid'), gethostbyname('localhost'), @dns_get_record('no-such-name.invalid', DNS_A)]);
line('streams', fn () => @stream_socket_client('tcp://localhost:1', $code, $text, 2) ? 0 : [$code, $text]);
line('proc_open', function () {
    $child = proc_open(['sh', '-c', 'cat; echo err >&2; exit 3'], [['pipe', 'r'], ['pipe', 'w'], ['pipe', 'w']], $pipes);
    fwrite($pipes[0], 'in');
    fclose($pipes[0]);
    stream_set_blocking($pipes[1], false);
    $read = [$pipes[1]];
    $write = $except = null;
    stream_select($read, $write, $except, 5);
    $out = stream_get_contents($pipes[1]) ?: '';
    return [$out, trim(stream_get_contents($pipes[2])), proc_close($child)];
});
line('programs', fn () => [
    trim(shell_exec('ls -la / >/dev/null 2>&1 && sort </etc/passwd | head -n 1')),
    exec('printf a | gzip -c | gunzip -c | tr a b; echo; perl -e "print 1+1"'),
    trim(shell_exec("cd " . escapeshellarg($dir) . " && tar cf t.tar c && cp c e && mv e f && rm f && date -r c +%s && find . -name c | wc -l")),
    trim(shell_exec('(sleep 0.01 & wait) && timeout 5 true && echo ok')),
]);
line('mail', fn () => mail('root@localhost', 'subject', "text\n"));
line('mailed', fn () => str_contains(file_get_contents("$dir/mail"), 'subject'));
line('gd', function () use ($dir) {
    $image = imagecreatetruecolor(20, 20);
    imagefill($image, 0, 0, 0xff0000);
    $r = [imagejpeg($image, "$dir/i.jpg"), imagepng($image, "$dir/i.png"), imagewebp($image, "$dir/i.webp")];
    return [...$r, getimagesize("$dir/i.jpg")[0], imagesx(imagecreatefromwebp("$dir/i.webp"))];
});
line('intl', fn () => [
    (new NumberFormatter('de_DE', NumberFormatter::DECIMAL))->format(1234.5),
    (new Collator('sv_SE'))->compare('ä', 'z'),
    transliterator_transliterate('Any-Latin; Latin-ASCII', 'Ω'),
]);
line('text', fn () => [mb_strtoupper('ß'), iconv('UTF-8', 'ISO-8859-1//TRANSLIT', 'x'), preg_replace('/\w+(?=x)/', 'y', 'aaax')]);
line('time', fn () => [date('Y', 0), (new DateTimeZone('Europe/Berlin'))->getName(), usleep(1000), sleep(0), hrtime(true) > 0]);
line('random', fn () => [strlen(random_bytes(9)), strlen(uniqid()), password_verify('x', password_hash('x', PASSWORD_ARGON2ID, ['threads' => 1, 'memory_cost' => 64]))]);
line('openssl', fn () => openssl_pkey_get_details(openssl_pkey_new(['curve_name' => 'prime256v1', 'private_key_type' => OPENSSL_KEYTYPE_EC]))['bits']);
line('sodium', fn () => strlen(sodium_crypto_secretbox('m', random_bytes(24), random_bytes(32))));
line('sysv', function () use ($dir) {
    $key = random_int(1, PHP_INT_MAX >> 33);
    $queue = msg_get_queue($key);
    $semaphore = sem_get($key);
    $memory = shm_attach($key, 1000);
    $r = [msg_send($queue, 1, 'x'), msg_receive($queue, 1, $type, 99, $got), $got, sem_acquire($semaphore), sem_release($semaphore)];
    $r[] = shm_put_var($memory, 1, 'v') . shm_get_var($memory, 1);
    return [...$r, msg_remove_queue($queue), sem_remove($semaphore), shm_remove($memory)];
});
line('shmop', function () {
    $block = shmop_open(random_int(1, PHP_INT_MAX >> 33), 'c', 0600, 10);
    return [shmop_write($block, 'x', 0), shmop_read($block, 0, 1), shmop_delete($block)];
});
line('sockets', function () {
    socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
    $r = [socket_write($pair[0], 'x'), socket_read($pair[1], 1), socket_set_nonblock($pair[0])];
    $tcp = socket_create_listen(0);
    $r[] = [socket_set_option($tcp, SOL_SOCKET, SO_REUSEADDR, 1), socket_get_option($tcp, SOL_SOCKET, SO_REUSEADDR)];
    $r[] = [socket_set_option($tcp, SOL_SOCKET, SO_RCVTIMEO, ['sec' => 1, 'usec' => 0]), socket_set_option($tcp, SOL_TCP, TCP_NODELAY, 1)];
    $udp = socket_create(AF_INET, SOCK_DGRAM, SOL_UDP);
    $r[] = [socket_bind($udp, '127.0.0.1'), socket_getsockname($udp, $address, $port)];
    $six = socket_create(AF_INET6, SOCK_DGRAM, SOL_UDP);
    $r[] = [socket_sendto($udp, 'x', 1, 0, '127.0.0.1', $port), socket_recvfrom($udp, $got, 1, 0, $from, $at), socket_set_option($six, IPPROTO_IPV6, IPV6_V6ONLY, 1)];
    $r[] = socket_set_option($udp, IPPROTO_IP, IP_MULTICAST_TTL, 2);
    return [...$r, socket_shutdown($pair[0], 1), socket_read($pair[1], 1)];
});
line('passing descriptors', function () {
    socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
    $sent = socket_sendmsg($pair[0], ['iov' => ['x'], 'control' => [['level' => SOL_SOCKET, 'type' => SCM_RIGHTS, 'data' => [fopen('/dev/null', 'r')]]]]);
    $message = ['buffer_size' => 1, 'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 1)];
    return [$sent, socket_recvmsg($pair[1], $message), count($message['control'])];
});
line('posix', fn () => [posix_getpid() > 1, posix_times() !== false, posix_getpwuid(posix_getuid())['name'], posix_kill(posix_getpid(), 0), posix_isatty(0), posix_getrlimit() !== []]);
line('load', fn () => [count(sys_getloadavg()), strlen(php_uname()) > 0, getrusage()['ru_oublock'] >= 0, gethostname() !== '']);
line('expressions', function () {
    $found = [];
    foreach (['/(\d+)-(?<w>\w+)/u', '~^(a|b)*c$~', '/(?=é)./u'] as $expression) {
        $found[] = preg_match($expression, '12-abé', $match) . '/' . preg_last_error_msg();
    }
    return $found;
});
line('signals', fn () => function_exists('pcntl_signal_dispatch') ? pcntl_signal_dispatch() : null);
line('imagick', function () use ($dir) {
    if (!class_exists('Imagick')) {
        return null;
    }
    $image = new Imagick();
    $image->newImage(30, 30, 'red');
    $image->setImageFormat('png');
    $image->blurImage(2, 1);
    return [$image->writeImage("$dir/m.png"), (new Imagick("$dir/m.png"))->getImageWidth()];
});
line('ssh2', fn () => function_exists('ssh2_connect') ? @ssh2_connect('127.0.0.1', 1) : null);
line('xml', fn () => [(string) simplexml_load_string('<a>b</a>'), (new DOMDocument())->loadHTML('<p>x')]);
line('zip', function () use ($dir) {
    $zip = new ZipArchive();
    $r = [$zip->open("$dir/z.zip", ZipArchive::CREATE), $zip->addFromString('a', 'b'), $zip->close()];
    return [...$r, file_get_contents("zip://$dir/z.zip#a")];
});
line('memory', fn () => strlen(str_repeat('x', 30 << 20)));
line('limit', fn () => set_time_limit(30));
line('opcache', function () use ($dir) {
    $status = function_exists('opcache_get_status') ? opcache_get_status(false) : false;
    file_put_contents("$dir/inc.php", '<?php return 7;');
    return [$status['opcache_enabled'] ?? null, $status['jit']['on'] ?? null, include "$dir/inc.php"];
});
line('jit', function () {
    for ($i = $sum = 0; $i < 300000; $i++) {
        $sum = ($sum * 3 + $i) % 1000003;
    }
    return $sum;
});
line('upload', fn () => [$_FILES['f']['error'] ?? null, isset($_FILES['f']) && move_uploaded_file($_FILES['f']['tmp_name'], "$dir/up")]);
fastcgi_finish_request();
file_put_contents("$dir/after", 'done');
