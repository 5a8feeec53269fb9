package Resque::Plugin::Qudo::Script;

# The two steps that must not be halves: taking a job, and settling it. See take.lua and settle.lua.

use strict;
use warnings;

use Exporter 'import';
use File::Basename 'dirname';
use JSON;
use POSIX 'strftime';

our @EXPORT_OK = qw(take note_of settle push_job characters);

my $JSON   = JSON->new->utf8->canonical->allow_nonref;
my %SOURCE = map { $_ => _read(dirname(__FILE__) . "/$_.lua") } qw(take settle);

sub _read {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/ = undef;
    return scalar <$file>;
}

# (queue, text) of the next job, now noted as this worker's; nothing when all queues are empty.
sub take {
    my ($worker, @queues) = @_;
    return if !@queues;
    my @keys = ($worker->key(worker => $worker->id), map { $worker->key(queue => $_) } @queues);
    my $run_at = strftime('%Y/%m/%d %H:%M:%S UTC', gmtime);
    my @names  = map { $JSON->encode(characters($_)) } @queues;
    my ($number, $text) = _run($worker->redis, take => \@keys, qq({"run_at":"$run_at","queue":), @names);
    return if !defined $text;
    return ($queues[$number], $text);
}

# What Redis has of the job that a worker is at.
sub note_of {
    my ($worker) = @_;
    return $worker->redis->get($worker->key(worker => $worker->id));
}

# True when it was for us to settle. key: [func, JSON list of spellings, identity] of one that Redis holds for a job that is over;
# pushes: [queue, text, text for the delayed layout, when], as settle.lua has it.
sub settle {
    my ($worker, $note, $failure, $key, @pushes) = @_;
    my $resque = $worker->resque;
    my @names  = ([ worker => $worker->id ], ['failed'], ['queues'], ['delayed_queue_schedule']);
    my @keys   = map { $resque->key(@$_) } @names;
    my @held   = ('') x 3;
    if ($key) {
        my ($func, @key) = map { bytes_of($_) } @$key;
        @held = ($resque->key("qudo_migrate:unique:$func"), @key);
    }
    return _run($worker->redis, settle => \@keys, $resque->key(''), $note, $failure, @held, map { @$_ } @pushes);
}

# A new job, outside of any settlement.
sub push_job {
    my ($resque, $push) = @_;
    my ($queue, $text, $delayed, $delay) = @$push;
    my $redis = $resque->redis;
    if ($delay <= 0) {
        $redis->sadd($resque->key('queues'), $queue);
        $redis->rpush($resque->key(queue => $queue), $text);
        return;
    }
    my ($now) = $redis->time;
    my $second = $now + 1 + int $delay;
    $redis->multi;
    $redis->zadd($resque->key('delayed_queue_schedule'), $second, $second);
    $redis->rpush($resque->key(delayed => $second), $delayed);
    $redis->sadd($resque->key(timestamps => $delayed), "delayed:$second");
    $redis->exec;
    return;
}

sub _run {
    my ($redis, $name, $keys, @values) = @_;
    my $reply = $redis->eval($SOURCE{$name}, scalar @$keys, @$keys, @values);
    return ref $reply eq 'ARRAY' ? @$reply : $reply;
}

# Text from what may be its UTF-8 bytes.
sub characters {
    my ($text) = @_;
    utf8::decode($text) if !utf8::is_utf8($text);
    return $text;
}

sub bytes_of {
    my ($text) = @_;
    utf8::encode($text);
    return $text;
}

1;
