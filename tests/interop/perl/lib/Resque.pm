package Resque;

# A stand-in for Resque of CPAN (diegok, 0.41), which is in no Debian package: as much of its documented methods,
# attributes, plugins and keys as scripts/perl meets, written anew from its documentation and from docs and fixtures of
# this repository. RESQUE_PERL_LIB=<lib of the real one> runs the same tests with that.
#
# What it keeps of the real one, since roles wrap it: who calls whom (work: startup, reserve, work_tick; work_tick:
# working_on, fork, perform, fail, done_working), in which process, and when each key is written.

use Moose;
use Class::Load 'load_class';
use Redis;

our $VERSION = '0.41-stand-in';

has redis        => (is => 'ro', required => 1);
has namespace    => (is => 'ro', default  => 'resque');
has plugins      => (is => 'ro', default  => sub { [] });
has job_class    => (is => 'ro', lazy => 1, default => sub { $_[0]->_with_roles('Resque::Job', 'job_roles') });
has worker_class => (is => 'ro', lazy => 1, default => sub { $_[0]->_with_roles('Resque::Worker', 'worker_roles') });
has failures => (is => 'ro', lazy => 1, default => sub { Resque::Failures->new(resque => $_[0]) }, handles => ['throw']);

around BUILDARGS => sub {
    my ($build, $class, %given) = @_;
    $given{redis} = { server => $given{redis} } if !ref $given{redis};
    $given{redis} = Redis->new(reconnect => 60, every => 250, %{ $given{redis} }) if ref $given{redis} eq 'HASH';
    return $class->$build(%given);
};

sub _with_roles {
    my ($self, $class, $kind) = @_;
    my $whole   = sub { map { /\A\+(.+)/ ? $1 : "Resque::Plugin::$_" } @_ };
    my @plugins = map { load_class($_); $_->new } $whole->(@{ $self->plugins });
    my @roles   = $whole->(map { $_->can($kind) ? @{ $_->$kind } : () } @plugins);
    return $class if !@roles;
    my $meta = Moose::Meta::Class->create_anon_class(superclasses => [$class], roles => \@roles, cache => 1);
    return $meta->name;
}

sub key    { my $self = shift; return join ':', $self->namespace, @_ }
sub worker { return $_[0]->worker_class->new(resque => $_[0]) }
sub queues { return $_[0]->redis->smembers($_[0]->key('queues')) }

sub new_job {
    my ($self, $job) = @_;
    return $self->job_class->new(resque => $self, ref $job eq 'HASH' ? %$job : (payload => $job));
}

sub push {
    my ($self, $queue, $job) = @_;
    $self->redis->sadd($self->key('queues'), $queue);
    return $self->redis->rpush($self->key(queue => $queue), $self->new_job({ payload => $job })->encode);
}

sub pop {
    my ($self, $queue) = @_;
    my $text = $self->redis->lpop($self->key(queue => $queue));
    return $text ? $self->new_job({ payload => $text, queue => $queue }) : undef;
}

package Resque::Job;

use Moose;
use Class::Load 'load_class';
use JSON;

has resque  => (is => 'rw', handles => ['redis']);
has worker  => (is => 'rw', lazy => 1, default => sub { $_[0]->resque->worker });
has class   => (is => 'rw');
has queue   => (is => 'rw');
has args    => (is => 'rw', isa => 'ArrayRef', default => sub { [] });
has payload => (is => 'ro', isa => 'HashRef');

around BUILDARGS => sub {
    my ($build, $class, @given) = @_;
    my %given = %{ $class->$build(@given) };
    $given{payload} = JSON->new->utf8->decode($given{payload}) if !ref $given{payload};
    return { class => $given{payload}{class}, args => $given{payload}{args} || [], %given };
};

sub encode    { return JSON->new->utf8->encode($_[0]->payload) }
sub stringify { return join ' | ', $_[0]->queue, $_[0]->class }

# As a function of the class, with the job.
sub perform {
    my ($self) = @_;
    load_class($self->class);
    my $perform = $self->class->can('perform') or die $self->class . " doesn't know how to perform\n";
    return $perform->($self);
}

sub fail {
    my ($self, $error) = @_;
    my ($exception, $message) = ref $error eq 'ARRAY' ? @$error : ('Resque::Failure::Job', "$error");
    $self->resque->throw(job => $self, exception => $exception, error => $message);
    return;
}

package Resque::Failures;

use Moose;
use JSON;
use POSIX 'strftime';

has resque => (is => 'ro');

sub throw {
    my ($self, %failure) = @_;
    my ($error, @backtrace) = split /\n/, $failure{error};
    my $job = $failure{job};
    my $record = {
        failed_at => strftime('%Y/%m/%d %H:%M:%S UTC', gmtime),
        payload   => $job->payload,
        exception => $failure{exception},
        error     => $error,
        backtrace => @backtrace ? \@backtrace : undef,
        worker    => $job->worker->id,
        queue     => $job->queue,
    };
    $self->resque->redis->rpush($self->resque->key('failed'), JSON->new->utf8->encode($record));
    return;
}

package Resque::Worker;

use Moose;
use JSON;
use POSIX 'strftime';
use Scalar::Util 'weaken';
use Sys::Hostname;
use Time::HiRes 'sleep';

has resque => (is => 'ro', handles => [qw(redis key)]);
has queues => (is => 'rw', default => sub { [] });
has id => (is => 'rw', lazy => 1, default => sub { join ':', hostname, $$, join ',', @{ $_[0]->queues } });
has [qw(verbose cant_fork cant_poll child shutdown paused)] => (is => 'rw', default => 0);
has interval => (is => 'rw', default => 5);
has autoconfig => (is => 'rw');

sub add_queue { my ($self, @names) = @_; $self->queues([ @{ $self->queues }, @names ]); return }
sub pause           { return $_[0]->paused(1) }
sub unpause         { return $_[0]->paused(0) }
sub shutdown_please { return $_[0]->shutdown(1) }
sub shutdown_now    { $_[0]->shutdown_please; return $_[0]->kill_child }
sub kill_child      { return $_[0]->child && kill 'KILL', $_[0]->child }
sub log             { my ($self, $text) = @_; print STDERR "$text\n" if $self->verbose; return }
sub procline        { my (undef, $text) = @_; $0 = "resque-$Resque::VERSION: $text"; return }

sub work {
    my ($self) = @_;
    $self->startup;
    while (!$self->shutdown) {
        $self->autoconfig->($self) if $self->autoconfig;
        my $job = $self->paused ? undef : $self->reserve;
        if ($job) { $self->work_tick($job) }
        else {
            $self->procline('Waiting for ' . join ', ', @{ $self->queues });
            sleep $self->interval;
        }
    }
    $self->unregister_worker;
    return;
}

sub startup {
    my ($self) = @_;
    $0 = 'resque: Starting';
    weaken $self;
    $SIG{TERM} = $SIG{INT} = sub { $self->shutdown_now };
    $SIG{QUIT} = sub { $self->shutdown_please };
    $SIG{USR1} = sub { $self->kill_child };
    $SIG{USR2} = sub { $self->pause };
    $SIG{CONT} = sub { $self->unpause };
    $self->prune_dead_workers;
    $self->redis->sadd($self->key('workers'), $self->id);
    $self->redis->set($self->key(worker => $self->id => 'started'), strftime('%Y-%m-%d %H:%M:%S UTC', gmtime));
    return;
}

sub reserve {
    my ($self) = @_;
    for my $queue (@{ $self->queues }) {
        my $job = $self->resque->pop($queue);
        return $job if $job;
    }
    return;
}

sub work_tick {
    my ($self, $job) = @_;
    $self->working_on($job);
    if (my $pid = fork) {
        $self->procline("Forked $pid");
        $self->child($pid);
        waitpid $pid, 0;
        if ($?) {
            $job->fail("Exited with status $?");
            $self->failed(1);
        }
    }
    else {
        $SIG{$_} = 'DEFAULT' for qw(TERM INT QUIT);
        $self->procline('Processing ' . $job->queue);
        $self->perform($job);
        exit 0;
    }
    $self->done_working;
    $self->child(0);
    return;
}

sub perform {
    my ($self, $job) = @_;
    if (!eval { $job->perform; 1 }) {
        $job->fail($@);
        $self->failed(1);
    }
    return;
}

sub working_on {
    my ($self, $job) = @_;
    my $note = { queue => $job->queue, run_at => strftime('%Y/%m/%d %H:%M:%S UTC', gmtime), payload => $job->payload };
    $self->redis->set($self->key(worker => $self->id), JSON->new->utf8->encode($note));
    return $job->worker($self);
}

sub done_working {
    my ($self) = @_;
    $self->processed(1);
    $self->redis->del($self->key(worker => $self->id));
    return;
}

sub processed { return $_[0]->_count('processed') }
sub failed    { return $_[0]->_count('failed') }

sub _count {
    my ($self, $name) = @_;
    $self->redis->incr($self->key(stat => $name));
    return $self->redis->incr($self->key(stat => $name => $self->id));
}

# A worker of this machine whose process is gone fails the job that it had.
sub prune_dead_workers {
    my ($self) = @_;
    my %alive = map { $_ => 1 } $self->worker_pids;
    for my $id ($self->redis->smembers($self->key('workers'))) {
        my ($host, $pid) = split /:/, $id;
        next if $host ne hostname || $alive{$pid};
        Resque::Worker->new(resque => $self->resque, id => $id)->unregister_worker;
    }
    return;
}

sub worker_pids { return map { /\A\s*([0-9]+)/ ? $1 : () } grep {/resque/} split /\n/, `ps -A -o pid,command` }

sub unregister_worker {
    my ($self) = @_;
    my $note = $self->redis->get($self->key(worker => $self->id));
    my $had = $note ? eval { JSON->new->utf8->decode($note) } : undef;
    if ($had) {
        my %job = (worker => $self, queue => $had->{queue}, payload => $had->{payload});
        $self->resque->new_job(\%job)->fail('Dirty exit');
    }
    $self->redis->srem($self->key('workers'), $self->id);
    $self->redis->del(map { $self->key(@$_) } [ worker => $self->id ], [ worker => $self->id, 'started' ],
        [ stat => processed => $self->id ], [ stat => failed => $self->id ]);
    return;
}

1;
