// What programs for Node do, for their system calls to be seen: see supervisor/provision/trace_syscalls.py.
// Nothing in here needs a network or a file of the image's.
const { execFileSync, spawn } = require('child_process');
const crypto = require('crypto');
const dgram = require('dgram');
const dns = require('dns');
const fs = require('fs');
const http = require('http');
const net = require('net');
const os = require('os');
const readline = require('readline');
const tls = require('tls');
const { Worker } = require('worker_threads');
const zlib = require('zlib');

const settled = (start) => new Promise((resolve) => start(() => resolve()));
const quietly = async (what) => { try { await what(); } catch (error) { console.log(String(error).slice(0, 60)); } };

async function files() {
    const directory = fs.mkdtempSync('/tmp/node-');
    const file = `${directory}/file`;
    const watcher = fs.watch(directory, () => {});
    await fs.promises.writeFile(file, Buffer.alloc(100000, 'x'));
    await fs.promises.appendFile(file, 'more');
    await fs.promises.copyFile(file, `${file}-2`);
    await fs.promises.cp(directory, `${directory}-2`, { recursive: true });
    await fs.promises.symlink(file, `${file}-3`);
    await fs.promises.link(file, `${file}-4`);
    for (const change of [
        () => fs.promises.chmod(file, 0o600), () => fs.promises.utimes(file, 1, 2), () => fs.promises.truncate(file, 10),
        () => fs.promises.readlink(`${file}-3`), () => fs.promises.realpath(file), () => fs.promises.statfs('/tmp'),
        () => fs.promises.access(file), () => fs.promises.rename(`${file}-4`, `${file}-5`), () => fs.promises.lchown(file, 1, 1),
        () => fs.promises.opendir(directory).then(async (all) => { for await (const _ of all); }),
    ]) await quietly(change);
    const open = await fs.promises.open(file, 'r+');
    await open.sync(); await open.datasync(); await open.readv([Buffer.alloc(5)]); await open.writev([Buffer.from('x')]); await open.close();
    await settled((done) => fs.createReadStream(`${file}-2`).pipe(zlib.createGzip()).pipe(fs.createWriteStream(`${file}.gz`)).on('close', done));
    watcher.close();
    fs.rmSync(directory, { recursive: true });
    fs.rmSync(`${directory}-2`, { recursive: true });
}

async function network() {
    // TLS without certificates: a shared key.
    const psk = { psk: Buffer.from('0123456789abcdef'), identity: 'me' };
    const options = { ciphers: 'PSK', minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' };
    const server = tls.createServer({ ...options, pskCallback: () => psk.psk }, (socket) => socket.end('hello'));
    await settled((done) => server.listen(0, '127.0.0.1', done).on('error', done));
    if (server.address()) {
        const client = tls.connect({ ...options, port: server.address().port, host: '127.0.0.1', pskCallback: () => psk, checkServerIdentity: () => undefined });
        client.setKeepAlive(true); client.setNoDelay(true);
        await settled((done) => client.on('data', () => {}).on('close', done).on('error', done));
        server.close();
    }
    const web = http.createServer((_, response) => response.end('x'.repeat(100000)));
    await settled((done) => web.listen(0, '127.0.0.1', done).on('error', done));
    if (web.address()) { await quietly(async () => (await fetch(`http://127.0.0.1:${web.address().port}/`)).text()); web.closeAllConnections(); web.close(); }
    await quietly(() => fetch('https://endpoint.invalid/'));
    await quietly(() => dns.promises.lookup('localhost'));
    await quietly(() => dns.promises.lookup('endpoint.invalid'));
    await quietly(() => new dns.promises.Resolver({ timeout: 500, tries: 1 }).resolve4('endpoint.invalid'));
    for (const [kind, address] of [['udp4', '127.0.0.1'], ['udp6', '::1']]) {
        const socket = dgram.createSocket(kind);
        await settled((done) => socket.on('error', done).send('x', 9, address, done));
        socket.close();
    }
    for (const host of ['127.0.0.1', '::1', '203.0.113.1']) {
        const socket = net.connect({ port: 443, host, timeout: 300 });
        await settled((done) => socket.on('connect', done).on('error', done).on('timeout', done));
        socket.destroy();
    }
    const local = net.createServer((socket) => socket.end('x'));
    await settled((done) => local.listen('/tmp/node.sock', done).on('error', done));
    const client = net.connect('/tmp/node.sock');
    await settled((done) => client.on('data', () => {}).on('close', done).on('error', done));
    local.close();
    try { os.networkInterfaces(); } catch (error) { console.log(error.code); }
}

async function processes() {
    execFileSync(process.execPath, ['-e', '1']);
    await settled((done) => spawn('/bin/sh', ['-c', 'cat; kill -TERM $$'], { stdio: ['ignore', 'pipe', 'pipe'], detached: true }).on('close', done).on('error', done));
    const worker = new Worker('require("worker_threads").parentPort.postMessage(new SharedArrayBuffer(8))', { eval: true });
    await settled((done) => worker.on('exit', done));
    await settled((done) => crypto.pbkdf2('a', 'b', 20000, 32, 'sha512', done));
    await settled((done) => crypto.generateKeyPair('ec', { namedCurve: 'P-256' }, done));
    process.on('SIGUSR2', () => {}); process.kill(process.pid, 'SIGUSR2');
    for (const ask of [() => os.setPriority(0, 5), () => os.getPriority(), () => os.cpus(), () => os.freemem(), () => os.userInfo(), () => os.uptime(),
        () => process.setgroups && process.getgroups(), () => process.resourceUsage(), () => process.constrainedMemory(), () => os.availableParallelism(),
        () => process.title = 'tool', () => process.umask(0o22), () => process.chdir('/tmp'), () => require('v8').getHeapStatistics()]) {
        try { ask(); } catch (error) { console.log(error.code); }
    }
    let garbage = []; for (let round = 0; round < 200; round++) garbage.push(Buffer.alloc(100000)); garbage = null;
    if (global.gc) global.gc();
}

async function terminal() {
    if (!process.stdin.isTTY) return;
    process.stdin.setRawMode(true); process.stdin.setRawMode(false);
    console.log(process.stdout.getWindowSize(), process.stdout.hasColors());
    const lines = readline.createInterface({ input: process.stdin, output: process.stdout, terminal: true });
    lines.write('typed\n'); lines.close();
}

(async () => { await files(); await network(); await processes(); await terminal(); console.log('done'); process.exit(0); })();
