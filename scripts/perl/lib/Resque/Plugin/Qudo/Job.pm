package Resque::Plugin::Qudo::Job;

# A job of Resque that a Qudo worker class performs, and what becomes of it: done, tried again, or failed for good.
#
# `perform` runs in the job's own process; `fail` there, too, or in the worker's when that process has died, or in
# another worker's that prunes a dead one. All three settle by the same rules, and one of them only.

use Moose::Role;

use Class::Load 'load_class';
use IO::Select;
use JSON;
use POSIX ();
use Unicode::Normalize 'NFKD';
use feature 'fc';

use Resque::Plugin::Qudo;
use Resque::Plugin::Qudo::Attempt;
use Resque::Plugin::Qudo::Base;
use Resque::Plugin::Qudo::Script qw(note_of settle characters);
use Resque::Plugin::Qudo::Text qw(member next_try postponed record);

my $JSON = JSON->new->utf8->canonical->allow_nonref;
my $ASCII = JSON->new->ascii;

# Seconds for which a class may take to load and to say how often a dead job is tried.
my $ASK_SECONDS = 30;
# Characters of a message that a failure keeps.
my $MOST_CHARACTERS = 10_000;

has qudo_attempt => (is => 'rw');                       # set while a Qudo class performs the job in this process
has qudo_plain   => (is => 'rw', default => 0);         # it is no Qudo class: all goes Resque's own way
has qudo_noted   => (is => 'rw', default => 0);         # its note was written when it was taken
has qudo_say     => (is => 'rw', default => sub { sub { } });    # tells the worker: "limit <seconds>", "settled"
has qudo_killed  => (is => 'rw');                       # why the worker has ended it

around perform => sub {
    my ($perform, $self) = @_;
    if (!eval { load_class($self->class); 1 } || !_is_qudo($self->class)) {
        $self->qudo_plain(1);
        return $self->$perform;
    }
    my $start = _count($self->payload->{start_time});
    if ($start > time) {
        my @texts = postponed($self->_text, characters($self->queue));
        return $self->_settle('', undef, [ $self->queue, @texts, "=$start" ]);
    }

    my $attempt = $self->_attempt;
    $self->qudo_attempt($attempt);
    $self->qudo_say->("limit $attempt->{grab_for}");
    my $lived = eval { $self->class->work_safely($attempt); 1 };
    $attempt->failed("$@" || 'work_safely died') if !$lived;
    my $verdict = $attempt->verdict;
    die $verdict->{error} if exists $verdict->{error};
    return $self->_settle('', $self->_held_key, @{ $verdict->{pushes} });
};

around fail => sub {
    my ($fail, $self, $error) = @_;
    return $self->$fail($error) if $self->qudo_plain;
    my ($exception, $message, $verdict);
    if (my $attempt = $self->qudo_attempt) {
        $verdict   = { max_retries => $attempt->{max_retries}, %{ $attempt->verdict } };
        # The work was done, and the first try to say so met no Redis.
        return $self->_settle('', $self->_held_key, @{ $verdict->{pushes} }) if !exists $verdict->{error};
        $exception = $attempt->is_aborted ? 'Qudo::Abort' : 'Qudo::Job';
        $message   = $verdict->{error};
    }
    else {
        $verdict = $self->_ask or return $self->$fail($error);
        ($exception, $message) = $self->qudo_killed ? ('TimedOut', $self->qudo_killed) : ('DirtyExit', "$error");
    }
    my @pushes;
    if (defined $verdict->{delay}) {
        my @texts = next_try($self->_text, characters($self->queue), $self->_retries, $verdict->{max_retries});
        @pushes = [ $self->queue, @texts, sprintf '%.6f', $verdict->{delay} ];
    }
    my $key = @pushes ? undef : $self->_held_key;
    return $self->_settle($self->_record($exception, $message, scalar @pushes), $key, @pushes);
};

# Whether Qudo's way is meant: `work`, and no `perform` that Resque would call.
sub _is_qudo {
    my ($class) = @_;
    no strict 'refs';
    return $class->can('work') && !defined &{"${class}::perform"};
}

# --- rules ------------------------------------------------------------------------------------------------------------

# Failures so far, those in Qudo too, as `qudo-migrate work` counts.
sub _retries {
    my ($self) = @_;
    my ($payload, $ours) = ($self->payload, $self->payload->{qudo});
    return _count($payload->{retry_count}) if exists $payload->{retry_count};
    return ref $ours eq 'HASH' ? _count($ours->{retry_cnt}) : 0;
}

sub _count { return defined $_[0] && !ref $_[0] && $_[0] =~ /\A[0-9]+\z/ ? $_[0] + 0 : 0 }

sub _attempt {
    my ($self) = @_;
    my $class = $self->class;
    for my $method (qw(max_retries retry_delay grab_for set_job_status work_safely)) {
        next if $class->can($method);
        no strict 'refs';
        *{"${class}::$method"} = Qudo::Worker->can($method);    # a class that has `work` and no parent
    }
    my $own = $class->can('max_retries') != Qudo::Worker->can('max_retries');
    return Resque::Plugin::Qudo::Attempt->new(
        resque        => $self->resque,
        class         => $class,
        payload       => $self->payload,
        retries       => $self->_retries,
        has_own_limit => $own,
        max_retries   => $own ? $class->max_retries : _count($self->payload->{max_retry}),
        grab_for      => $class->grab_for,
    );
}

# The verdict on a job whose process has died without a word. The class is loaded in a process of its own: it may hold
# connections that a worker must not share with its jobs. Nothing for what is no Qudo class.
sub _ask {
    my ($self) = @_;
    pipe my $from, my $to or die "pipe: $!\n";
    my $pid = fork;
    die "fork: $!\n" if !defined $pid;
    if (!$pid) {
        my $answer = eval { $self->_answer };
        syswrite $to, $answer || '{}';
        POSIX::_exit(0);    # without what the worker would clean up
    }
    close $to;
    my ($select, $until, $answer) = (IO::Select->new($from), time + $ASK_SECONDS, '{}');
    while (time < $until) {
        next if !$select->can_read(1);    # a signal ends a wait, too
        $answer = readline $from;
        last;
    }
    local $? = 0;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    my $rules = eval { $JSON->decode($answer) } || {};
    return if $rules->{plain};
    my $max = defined $rules->{max_retries} ? $rules->{max_retries} : _count($self->payload->{max_retry});
    my $again = $self->_retries < $max;
    return { max_retries => $max, $again ? (delay => $rules->{delay} || 0) : () };
}

sub _answer {
    my ($self) = @_;
    load_class($self->class);
    return '{"plain":true}' if !_is_qudo($self->class);
    my $attempt = $self->_attempt;
    my %answer = (max_retries => $attempt->{max_retries} + 0);
    $answer{delay} = ($self->class->retry_delay($attempt) || 0) + 0 if $attempt->retry_cnt < $attempt->{max_retries};
    return $JSON->encode(\%answer);
}

# --- settling ---------------------------------------------------------------------------------------------------------

# The queue's own text of this job where the note still has it.
sub _text {
    my ($self) = @_;
    my $note = note_of($self->worker);
    return member($note, 'payload') || $self->encode;
}

# The uniqkey that Redis holds for a job born there, in all spellings of qudo-migrate's Enqueuer: as it is, without
# blanks at its end, and so that keys are one which any of MySQL's collations could take for equal. A key that a source
# holds is freed when it is asked for.
sub _held_key {
    my ($self) = @_;
    my $ours = $self->payload->{qudo};
    return undef if ref $ours ne 'HASH' || grep { !defined $ours->{$_} } qw(func uniqkey native);
    my $key = $ours->{uniqkey};
    (my $padded = $key) =~ s/ +\z//;
    my @spellings = ($key, $padded);
    if ($key =~ /[^\x00-\x7f]/) {
        ($key = NFKD(fc $key)) =~ s/\P{Canonical_Combining_Class=Not_Reordered}//g;
    }
    ($key = fc $key) =~ s/ +\z//;
    return [ $ours->{func}, $ASCII->encode([ @spellings, $key ]), $ours->{native} ];
}

sub _settle {
    my ($self, $failure, $key, @pushes) = @_;
    my $note = note_of($self->worker);
    my $settled = defined $note && settle($self->worker, $note, $failure, $key, @pushes);
    $self->worker->log('somebody else has settled ' . $self->class) if !$settled;
    $self->qudo_say->('settled');
    return $settled;
}

# An entry of Resque's list of failures. One that is tried again carries retried_at, which tools show as requeued.
sub _record {
    my ($self, $exception, $message, $again) = @_;
    my ($error, @backtrace) = split /\n/, substr characters($message), 0, $MOST_CHARACTERS;
    my $now = time;
    my %values = (
        failed_at => POSIX::strftime('%Y/%m/%d %H:%M:%S UTC', gmtime $now),
        exception => $exception,
        error     => defined $error ? $error : '',
        backtrace => @backtrace ? \@backtrace : undef,
        worker    => characters($self->worker->id),
        queue     => characters($self->queue),
    );
    $values{retried_at} = POSIX::strftime('%Y/%m/%d %H:%M:%S', gmtime $now) if $again;
    return record(\%values, $self->_text);
}

1;
