// Worker threads, child processes, a server on the loopback, watched files, interfaces and compiled hot loops.
const assert = require('assert'), fs = require('fs'), http = require('http'), os = require('os'), path = require('path');
const { execFile, fork, spawnSync } = require('child_process');
const { promisify } = require('util');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

function hot(n) { let x = 1; for (let i = 0; i < n; i++) x = (x * 31 + i) | 0; return x; }

async function main() {
    for (let i = 0; i < 500; i++) hot(10000);
    const shared = new SharedArrayBuffer(4);
    await Promise.all([...Array(4)].map(() => new Promise((ok, fail) => {
        new Worker(__filename, { workerData: shared }).on('message', ok).on('error', fail);
    })));
    assert.strictEqual(new Int32Array(shared)[0], 4000);
    const server = http.createServer((_, answer) => answer.end('pong'));
    await new Promise(ok => server.listen(0, '127.0.0.1', ok));
    const text = await new Promise((ok, fail) => http.get({ port: server.address().port, host: '127.0.0.1' }, answer => {
        let all = ''; answer.on('data', part => all += part).on('end', () => ok(all));
    }).on('error', fail));
    assert.strictEqual(text, 'pong');
    server.close();
    assert.strictEqual((await promisify(execFile)('sh', ['-c', 'echo child'])).stdout, 'child\n');
    assert.strictEqual(spawnSync('true').status, 0);
    const child = fork(__filename, ['child']);
    assert.strictEqual(await new Promise(ok => child.on('message', ok)), 'hello');
    const folder = fs.mkdtempSync('/tmp/work'), watcher = fs.watch(folder);
    setImmediate(() => fs.writeFileSync(path.join(folder, 'file'), 'x'));
    await new Promise(ok => watcher.once('change', ok));
    watcher.close();
    assert.deepStrictEqual(Object.keys(os.networkInterfaces()), ['lo']);
    os.setPriority(os.getPriority() + 1);
    console.log('done');
}

if (!isMainThread) {
    const counter = new Int32Array(workerData);
    for (let i = 0; i < 1000; i++) Atomics.add(counter, 0, 1);
    parentPort.postMessage('ok');
} else if (process.argv[2] === 'child') {
    process.send('hello'); process.disconnect();
} else {
    main().catch(error => { console.error(error); process.exit(1); });
}
